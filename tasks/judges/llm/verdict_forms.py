"""The forms in which a language model can give a verdict, best first: what is sent for each, and how it is read.

A reply is read by itself: nothing of the prompt is in it. What does not keep to its form exactly is no verdict.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

VERSION = 1  # of the forms and of how they are read
_LABELS = {"A": 1.0, "B": 0.0}
_VALUES = {**_LABELS, "tie": 0.5}
_LAST_LINE = re.compile(r"[*_`\s]*Verdict:[*_`\s]*(A|B|tie)[*_`\s.]*")
_LABEL = re.compile(r"\s*[AB](?:\W*$|[.:)\n])")  # and not the first word of a sentence: "A better answer"
_MOST_SHOWN = 1000  # characters of a reply that are kept beside a verdict


@dataclasses.dataclass(frozen=True)
class Reply:
    """A model's reply, as it is kept in the cache.

    Attributes:
        text: What it says.
        finish: Why it ended: `stop`, `length`, or a word of the server's.
        top: Of the first token that is no space, the likeliest alternatives with their log-probabilities.
        refusal: What it says where it declines, in the API's own field.
    """

    text: str
    finish: str = "stop"
    top: tuple[tuple[str, float], ...] = ()
    refusal: str = ""

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Reply:
        """Return the reply that :meth:`payload` gave."""
        top = tuple((str(token), float(value)) for token, value in payload["top"])
        return cls(payload["text"], payload["finish"], top, payload["refusal"])

    def payload(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a reply says.

    Attributes:
        p_first: Probability that answer A is better; None where the reply is no verdict.
        detail: The model's reason, or why the reply is no verdict.
    """

    p_first: float | None
    detail: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of a verdict.

    Attributes:
        name: How messages and the cache name it.
        instruction: What the prompt ends with.
        request: What is added to the request.
        most_tokens: The most tokens of the reply; None for `max_tokens` of params.
        read: Reads a reply that is complete.
    """

    name: str
    instruction: str
    request: Mapping[str, Any]
    most_tokens: int | None
    read: Callable[[Reply], Reading]

    def verdict(self, reply: Reply) -> Reading:
        """Return what a reply says; one that declines, is cut off or breaks the form is no verdict."""
        if reply.refusal:
            return _unread("the model declines", reply.refusal)
        is_complete = reply.finish == "stop" or (reply.finish == "length" and self.most_tokens is not None)
        if not is_complete:
            return _unread(f"the reply ended by `{reply.finish}`", reply.text)
        return self.read(reply)


def _unread(fault: str, text: str) -> Reading:
    return Reading(None, {"fault": fault, "reply": text[:_MOST_SHOWN]})


def _of_label(reply: Reply) -> Reading:
    """Return P(A) / (P(A) + P(B)) at the first token, which must be a label itself."""
    if not _LABEL.match(reply.text) or not reply.top or reply.top[0][0].strip() not in _LABELS:
        return _unread("the reply does not begin with a label", reply.text)
    mass = dict.fromkeys(_LABELS, 0.0)
    for token, log_probability in reply.top:
        if token.strip() in mass:
            mass[token.strip()] += math.exp(min(log_probability, 0.0))
    total = mass["A"] + mass["B"]
    return Reading(round(mass["A"] / total, 9), {}) if total > 0 else _unread("no label has a probability", reply.text)


def _of_json(reply: Reply) -> Reading:
    try:
        value = json.loads(reply.text)
    except (ValueError, RecursionError):
        return _unread("the reply is no JSON", reply.text)
    if not isinstance(value, dict) or set(value) != {"reason", "better"} or value["better"] not in list(_VALUES):
        return _unread("the reply does not keep to the schema", reply.text)
    return Reading(_VALUES[value["better"]], {"reason": str(value["reason"])[:_MOST_SHOWN]})


def _of_last_line(reply: Reply) -> Reading:
    *reason, last = reply.text.rstrip().rsplit("\n", 1)
    if not (match := _LAST_LINE.fullmatch(last)):
        return _unread("the last line is no verdict", reply.text)
    return Reading(_VALUES[match[1]], {"reason": "".join(reason).strip()[:_MOST_SHOWN]})


_SCHEMA = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "better": {"type": "string", "enum": list(_VALUES)}},
    "required": ["reason", "better"],
    "additionalProperties": False,
}
FORMS = {
    form.name: form
    for form in (
        Form(
            "label",
            "Which answer is better? Reply with one letter alone: A or B.",
            {"logprobs": True, "top_logprobs": 5},  # some servers give no more than five
            8,
            _of_label,
        ),
        Form(
            "json",
            'Which answer is better? Reply with a JSON object alone, {"reason": "one or two sentences", '
            '"better": "A"}, where `better` is "A", "B", or "tie" if neither is better.',
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "verdict", "strict": True, "schema": _SCHEMA},
                }
            },
            None,
            _of_json,
        ),
        Form(
            "line",
            "Which answer is better? Give your reasons in a few sentences. Then end with a last line that reads "
            "exactly `Verdict: A`, `Verdict: B`, or `Verdict: tie` if neither is better.",
            {},
            None,
            _of_last_line,
        ),
    )
}
