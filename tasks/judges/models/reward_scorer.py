"""The judge `reward_model`: a reward model scores the whole conversation, rendered by its own chat template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tasks.core.files import digest_of, read_json
from tasks.core.versions import versions
from tasks.judges.models.hostile_text import without_special_tokens
from tasks.judges.models.model_choices import ModelPlace, RewardModelJudge
from tasks.judges.models.reward_source import load_reward_tokenizer, reward_digest, reward_folder
from tasks.judges.models.row_cache import TokenText, recall
from tasks.judges.protocol.protocol import Response, Score
from tasks.pairs.encoding.positions import Positions

if TYPE_CHECKING:
    from tasks.judges.models.reward_model import RewardModel

VERSION = "reward model/1"  # of how a conversation becomes a score; another one makes every score anew
DIGITS = 4  # of a score: differences of rounding, as between batches, decide nothing


class RewardModelScorer:
    """Scores an answer by a reward model.

    A conversation that the model's template refuses, or that is longer than its positions, is invalid; nothing is cut.

    Args:
        choice: Its settings.
        place: How this machine is used.

    Raises:
        ConfigError, DataError, NetworkError: As :func:`reward_folder`.
    """

    is_soft = True

    def __init__(self, choice: RewardModelJudge, place: ModelPlace) -> None:
        self._folder, self._place = reward_folder(choice), place
        self._digest = reward_digest(choice, self._folder)
        self._tokenizer: Any = load_reward_tokenizer(self._folder)
        self._positions = Positions.of(read_json(self._folder / "config.json"))
        self.dead_band = choice.dead_band

    @property
    def fingerprint(self) -> str:
        """A digest of the model, the version of the scoring, and the dead band."""
        return digest_of([VERSION, self._digest, self.dead_band])

    @cached_property
    def _model(self) -> RewardModel:
        from tasks.judges.models.reward_model import RewardModel  # loads torch

        return RewardModel(self._folder, self._place.runtime)

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Return the score of each answer."""
        texts = [self._text(response) for response in responses]
        readable = [text for text in texts if isinstance(text, TokenText)]
        values = iter([float(row[0]) for row in self._scores(readable)])
        return [_score(next(values)) if isinstance(text, TokenText) else _invalid(text) for text in texts]

    def _scores(self, texts: Sequence[TokenText]) -> Sequence[Any]:
        if not texts:
            return []
        identity = digest_of([VERSION, self._digest, self._model.precision, versions(("torch", "transformers"))])
        keys = [text.key(identity) for text in texts]
        store = self._place.rows("scores")
        return recall(store, keys, lambda places: self._model.read([texts[i] for i in places]), "scoring answers")

    def _text(self, response: Response) -> TokenText | str:
        """Return the whole conversation as tokens, or why it cannot be scored.

        The template writes the special tokens, BOS among them, so the tokenizer adds none.
        """
        from jinja2.exceptions import TemplateError

        messages = [{"role": turn.role, "content": turn.text} for turn in response.prompt.turns]
        reply = without_special_tokens(response.answer.text.strip(), self._tokenizer)
        try:
            whole = self._tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": reply}], tokenize=False
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            return f"the chat template refuses the conversation: {' '.join(str(error).split())[:200]}"
        ids = tuple(self._tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"])
        if self._positions and len(ids) > self._positions.most:
            return f"{len(ids)} tokens, and the model has {self._positions.most} positions"
        return TokenText(ids) if ids else "it has no tokens"


def _score(value: float) -> Score:
    return Score(round(value, DIGITS)) if math.isfinite(value) else _invalid("the model's score is not finite")


def _invalid(reason: str) -> Score:
    return Score(None, {"reason": reason}, "invalid")
