"""From pairs to token rows: rendering, tokenising in batches on all cores, assembling."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import canonical_json
from tasks.core.section import Section, at_least, between
from tasks.pairs.encoding.assemble import Assembled, PairDropped, TokenRules, assemble, cut_prompt, with_bos
from tasks.pairs.encoding.pieces import PieceTokenizer
from tasks.pairs.encoding.rendered import Rendered, render_pair
from tasks.pairs.encoding.template import PLAIN, ChatTemplate, load_template
from tasks.pairs.record.pair import Message, Pair
from tasks.pairs.tokens.token_cache import Ids, TokenPairs
from tasks.telemetry.log import get_logger

BATCH = 512  # pairs that are tokenised at once

DROP_REASONS = {
    "template_refused": "the chat template raises an error for this conversation",
    "tools_not_rendered": "the chat template reads no tools, documents, tool calls or thoughts, and the pair has some",
    "prompt_not_rendered": "the chat template leaves out or changes the text of a system's or a user's turn",
    "reply_not_rendered": "the chat template leaves out or changes a part of a reply's text",
    "empty_reply": "a reply is blank",
    "no_prompt_token": "no token stands before the replies",
    "eos_in_reply": "a reply's own text holds a token that stops generation",
    "identical_completions": "both replies have the same tokens (after cutting)",
    "prompt_too_long": "the prompt is longer than allowed, and truncation is `drop`",
    "completion_too_long": "a reply is longer than allowed, and truncation is `drop`",
}

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class EncodeConfig(Section, path="encode"):
    """The `encode` section of params.yaml; its keys are explained there."""

    max_prompt_tokens: Annotated[int, at_least(2)] = 512
    max_completion_tokens: Annotated[int, at_least(1)] = 512
    truncation: Literal["cut", "drop"] = "cut"
    chat_template: str = "auto"
    template_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    text_as: Literal["completion", "chat"] = "completion"
    max_dropped_share: Annotated[float, between(0, 1)] = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedPair:
    """The result of encoding one pair.

    Attributes:
        pair: The pair.
        made: Its row; None if it was dropped.
        prompt: The tokens that a model is asked to go on from, cut like the row's; none if the pair was dropped.
        reason: Why it was dropped, one of :data:`DROP_REASONS`.
        detail: What exactly was wrong.
        is_rerendered: The template renders the prompt alone differently than with a reply behind it.
    """

    pair: Pair
    made: Assembled | None
    prompt: Ids
    reason: str = ""
    detail: str = ""
    is_rerendered: bool = False


@dataclasses.dataclass(frozen=True)
class EncoderFacts:
    """Facts about an encoder, as plain values.

    Attributes:
        kind: Of its template: `auto`, `plain`, `file`, or `none` where there is none.
        template: The template's text.
        eos_ids: All ids that stop generation, the tokenizer's own first.
        context: The most tokens that the tokenizer says its model was made for.
        lacks_bos: The tokenizer begins plain text with BOS, and the chat template does not.
        opening: What opens the assistant's turn in place of a template that does not.
        unk_id: The unknown token, if the tokenizer has one that serves for nothing else.
        vocabulary: How many ids there are, those that no token has included.
    """

    kind: str
    template: str | None
    eos_ids: tuple[int, ...]
    context: int
    lacks_bos: bool
    opening: str = ""
    unk_id: int | None = None
    vocabulary: int = 1 << 31

    @classmethod
    def from_json(cls, text: str) -> EncoderFacts:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"eos_ids": tuple(values["eos_ids"])})

    def to_json(self) -> str:
        """Return the facts as JSON."""
        return canonical_json(dataclasses.asdict(self))

    def warn(self) -> None:
        """Warn of what may be a mistake."""
        if self.lacks_bos:
            _log.warning("the chat template writes no BOS, though the tokenizer puts one before plain text")
        if self.opening:
            message = (
                "the chat template does not open the assistant's turn; %r opens it, in training and when answering"
            )
            _log.warning(message, self.opening)


class PairEncoder:
    """Turns pairs into rows of tokens with one tokenizer and one configuration.

    Args:
        tokenizer: Of transformers; a fast one works on all cores.
        config: What to do with long texts and which template to use.
        more_eos_ids: Further ids at which the model stops, as its generation config lists them.

    Raises:
        ConfigError: The tokenizer has no EOS, or the template cannot be used.
    """

    def __init__(self, tokenizer: Any, config: EncodeConfig, more_eos_ids: Iterable[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._pieces = PieceTokenizer(tokenizer)
        self._config = config
        self.template = load_template(tokenizer, config.chat_template, config.template_kwargs)
        self.eos_ids = _eos_ids(tokenizer, more_eos_ids)
        self._raw_rules = self._rules(None)
        self._chat_rules = self._rules(self.template)

    def _rules(self, template: ChatTemplate | None) -> TokenRules:
        """Return the rules for rendered conversations, or (None) for plain text."""
        bos_id = self._tokenizer.bos_token_id
        begins = self._tokenizer("a")["input_ids"][:1] == [bos_id]
        ending = self._pieces.ids(template.ending()) if template else np.zeros(0, dtype=np.int32)
        return TokenRules(
            eos_ids=self.eos_ids,
            bos_id=bos_id,
            # a chat template writes the special tokens that the model was trained with, and no others
            adds_bos=begins and (template is None or template.kind == PLAIN),
            turn_ends=int(np.isin(ending, self.eos_ids).sum()),
            max_prompt=self._config.max_prompt_tokens,
            max_completion=self._config.max_completion_tokens,
            is_cut=self._config.truncation == "cut",
        )

    @cached_property
    def facts(self) -> EncoderFacts:
        """Facts about this encoder."""
        lacks_bos = False
        if self.template and self._raw_rules.adds_bos and not self._chat_rules.adds_bos:
            rendered = self.template.render([Message("user", "Question")])
            lacks_bos = self._pieces.ids(rendered)[:1].tolist() != [self._raw_rules.bos_id]
        return EncoderFacts(
            kind=self.template.kind if self.template else "none",
            template=self.template.jinja if self.template else None,
            eos_ids=self.eos_ids,
            context=int(self._tokenizer.model_max_length),
            lacks_bos=lacks_bos,
            opening=self.template.opening if self.template else "",
            unk_id=_unk_id(self._tokenizer),
            vocabulary=max(len(self._tokenizer), 1 + max(self._tokenizer.get_vocab().values())),
        )

    def encode(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Encode a batch; the result has one entry a pair, in order.

        Raises:
            ConfigError: A pair is a conversation and there is no chat template.
        """
        rendered = [self._render(pair) for pair in pairs]
        tokens = self._pieces.triples([each.texts for each in rendered if isinstance(each, Rendered)])
        done = []
        for pair, each in zip(pairs, rendered, strict=True):
            if isinstance(each, Rendered):
                done.append(self._assemble(pair, each, *next(tokens)))
            else:
                done.append(EncodedPair(pair, None, np.zeros(0, dtype=np.int32), each.reason, each.detail))
        return done

    def _render(self, pair: Pair) -> Rendered | PairDropped:
        sides = ((pair.chosen, pair.chosen_extra), (pair.rejected, pair.rejected_extra))
        if not all(text.strip() or '"tool_calls"' in extra for text, extra in sides):
            return PairDropped("empty_reply", "a reply has no text")
        prompt = pair.prompt
        if isinstance(prompt, str):
            if self._config.text_as == "completion":
                if pair.inputs or pair.chosen_extra or pair.rejected_extra:
                    detail = "plain text passes no chat template, and the pair has tools, documents or tool calls"
                    return PairDropped("tools_not_rendered", detail)
                return Rendered((prompt, prompt + pair.chosen, prompt + pair.rejected), is_chat=False)
            prompt = (Message("user", prompt),)

        if (template := self.template) is None:
            raise ConfigError(
                "the pairs are conversations, and the base model's tokenizer has no chat template",
                "set `encode.chat_template: plain`, or name a jinja file there",
            )
        try:
            return render_pair(pair, prompt, template)
        except PairDropped as dropped:
            return dropped

    def _assemble(self, pair: Pair, texts: Rendered, *tokens: Ids) -> EncodedPair:
        rules = self._chat_rules if texts.is_chat else self._raw_rules
        prompt, chosen, rejected = (with_bos(ids, rules) for ids in tokens)
        try:
            made = assemble(prompt, chosen, rejected, rules)
        except PairDropped as dropped:
            return EncodedPair(pair, None, prompt[:0], dropped.reason, dropped.detail, texts.is_rerendered)
        return EncodedPair(pair, made, cut_prompt(prompt, rules), is_rerendered=texts.is_rerendered)


def _unk_id(tokenizer: Any) -> int | None:
    """Return the unknown token's id; None where there is none or where it also begins, ends or pads texts."""
    unk_id: int | None = tokenizer.unk_token_id
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return None if unk_id in others else unk_id


def _eos_ids(tokenizer: Any, more: Iterable[int]) -> tuple[int, ...]:
    """Return all ids that stop generation, the tokenizer's own first."""
    eos_id = tokenizer.eos_token_id
    size = len(tokenizer)
    others = sorted({token for token in more if 0 <= token < size} - {eos_id})
    every = ([] if eos_id is None else [eos_id]) + others
    if not every:
        raise ConfigError("the base model's tokenizer has no EOS token, so no reply could end", "choose another base")
    return tuple(every)


def to_tokens(encoded: Iterable[EncodedPair]) -> TokenPairs:
    """Return the rows of the pairs that were not dropped."""
    kept = [(each.pair, each.made.row) for each in encoded if each.made]
    return TokenPairs.of_rows(
        [row for _, row in kept],
        [pair.pair_id for pair, _ in kept],
        [pair.prompt_id for pair, _ in kept],
        [pair.weight for pair, _ in kept],
        [pair.margin for pair, _ in kept],
    )


def encode_pairs(pairs: Iterable[Pair], tokenizer: Any, config: EncodeConfig | None = None) -> TokenPairs:
    """Tokenise pairs in memory; what cannot be used is logged by reason.

    Args:
        pairs: From :func:`tasks.pairs.ingestion.intake.read_pairs`, or made by hand.
        tokenizer: Of transformers.
        config: Lengths, truncation and chat template.

    Raises:
        ConfigError: A pair is a conversation and there is no chat template.
        DataError: No pair is left.
    """
    encoder = PairEncoder(tokenizer, config or EncodeConfig())
    encoder.facts.warn()
    parts, dropped = [], Counter[str]()
    for batch in in_batches(pairs, BATCH):
        encoded = encoder.encode(batch)
        dropped.update(each.reason for each in encoded if each.reason)
        parts.append(to_tokens(encoded))
    tokens = TokenPairs.concatenate(parts)
    if not len(tokens):
        raise DataError(f"no pair is left after tokenising; dropped: {dict(dropped)}", "see the reasons")
    if dropped:
        _log.warning("%d pairs kept, dropped: %s", len(tokens), dict(dropped))
    return tokens


def in_batches(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """Yield lists of at most ``size`` pairs."""
    iterator = iter(pairs)
    while batch := list(islice(iterator, size)):
        yield batch
