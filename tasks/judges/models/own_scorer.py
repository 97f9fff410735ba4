"""The judge `own`: a Bradley-Terry head on the hidden states of the pinned base.

It learns from the labels of the training pairs, as the policy does, and it is measured on held-out ones like any judge.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.core.errors import ArtifactError
from tasks.core.files import digest_of
from tasks.judges.models.model_choices import ModelPlace, OwnJudge
from tasks.judges.models.own_judge_file import HEAD_FILE, OwnModel
from tasks.judges.models.own_reader import FEATURES, OwnReader
from tasks.judges.models.row_cache import TokenText
from tasks.judges.protocol.protocol import Response, Score


class OwnScorer:
    """Scores an answer by a head on the base's hidden states.

    An answer without a letter or a digit, and one that is taken for a refusal or a note to the judge, gets the least
    score. Any other gets a score between the lowest and the highest of the training replies. An answer that does not
    fit the base's positions behind its prompt is invalid; nothing is cut.

    Args:
        choice: Its settings.
        place: Where the base and the head are.

    Raises:
        ArtifactError: The base or the head is missing, or the head was fitted on another base.
    """

    is_soft = True

    def __init__(self, choice: OwnJudge, place: ModelPlace) -> None:
        self._reader = OwnReader(place)
        self._model = OwnModel.load(place.qualification / HEAD_FILE)
        self.dead_band = choice.dead_band
        expected = {"base": self._reader.base.digest, "features": FEATURES}
        if {name: self._model.facts.get(name) for name in expected} != expected:
            what = f"{place.qualification / HEAD_FILE} was fitted on another base, or by another version"
            raise ArtifactError(what, "run `dvc repro -f qualify`")

    @property
    def fingerprint(self) -> str:
        """A digest of head, base, the version of the features, and the dead band."""
        return digest_of(["own", FEATURES, self._reader.base.digest, self._model.digest, self.dead_band])

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Return the score of each answer, in log-odds."""
        flags = self._model.non_answers.flags([response.answer.text for response in responses])
        texts = [self._text(response, is_none) for response, is_none in zip(responses, flags, strict=True)]
        readable = [text for text in texts if isinstance(text, TokenText)]
        values = iter(self._model.head.scores(self._reader.features(readable, "reading answers")))
        return [Score(next(values)) if isinstance(text, TokenText) else text for text in texts]

    def _text(self, response: Response, is_non_answer: bool) -> TokenText | Score:
        if is_non_answer:
            return Score(self._model.head.least, {"reason": "it answers nothing"})
        text = self._reader.text(response.prompt.ids, response.answer.text)
        return Score(None, {"reason": text}, "invalid") if isinstance(text, str) else text
