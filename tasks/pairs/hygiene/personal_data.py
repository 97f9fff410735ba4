"""Personal data and secrets in pairs, by the detectors of two libraries: counted, masked, or a reason to drop the pair.

Presidio's recognisers of patterns (no language model) know e-mail addresses, phone numbers, and the checksums of cards
and IBANs; detect-secrets knows the keys of services by their prefixes. Their detectors of anything that looks random
are left out, for they take ordinary code for secrets. Names and addresses of people are not recognised.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from tasks.core.errors import ConfigError
from tasks.core.files import canonical_json
from tasks.pairs.record.pair import Message, Pair
from tasks.pairs.record.rejection import Rejection

Mode = Literal["report", "mask", "drop"]

_LEAST_SCORE = 0.4  # Presidio's for a pattern with separators, and for a phone number
_SECRETS = {  # of detect_secrets.plugins, by module
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "gitlab_token": "GitLabTokenDetector",
    "jwt": "JwtTokenDetector",
    "mailchimp": "MailchimpDetector",
    "openai": "OpenAIDetector",
    "pypi_token": "PypiTokenDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "telegram_token": "TelegramBotTokenDetector",
    "twilio": "TwilioKeyDetector",
}
# the whole block; detect-secrets knows its first line
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[rn])(?:(?!-----).){40,}(?:-----END [A-Z0-9 ]*-----)?",
    re.DOTALL,
)
_REST_OF_TOKEN = re.compile(r"[\w+/=-]*(?:\.[\w+/=-]+)*")
# how numbers are written that are no ids, sums or time stamps
_WRITTEN = {
    "CREDIT_CARD": re.compile(r"[2-6]\d{13,}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{4,5}"),
    "PHONE_NUMBER": re.compile(r"\+\d.*|.*\d\D+\d.*"),
}
_ANYHOW = re.compile(r".*", re.DOTALL)
_CODE = re.compile(r"\(|:\S")  # behind what looks like an e-mail address: `x@w.to(device)`, `git@host.org:path`
_ADDRESS = (65, 256)  # most characters before and behind the @ of an e-mail address


class Finding(NamedTuple):
    """A piece of personal data or a secret: its place in a text, and its kind, such as `EMAIL_ADDRESS`."""

    start: int
    end: int
    kind: str


class PersonalData:
    """Looks at pairs, and masks or rejects those with personal data or secrets.

    It can be pickled; the detectors are loaded once a process.

    Attributes:
        counts: How many findings of each kind there were, and in how many `pairs` (or kept rows).
    """

    def __init__(self, mode: Mode) -> None:
        """Load the detectors.

        Raises:
            ConfigError: A library is not installed.
        """
        self._mode = mode
        self.counts: Counter[str] = Counter()
        _detectors()

    def take_counts(self) -> Counter[str]:
        """Return the counts, and begin anew."""
        counts, self.counts = self.counts, Counter()
        return counts

    def check(self, row: Pair | Rejection) -> Pair | Rejection:
        """Return a pair or a rejection, masked if that is asked for; or a rejection of what is to be dropped.

        Of a rejection, what it is kept for is looked at.
        """
        kinds: Counter[str] = Counter()
        masked = _mapped(row, functools.partial(_mask, kinds))
        if not kinds:
            return row
        self.counts += kinds + Counter(pairs=1)
        if self._mode == "drop":
            return Rejection(row.source, "personal_data", f"it holds {', '.join(sorted(kinds))}")
        if self._mode == "report":
            return row
        if isinstance(masked, Pair) and masked.pair_id == masked.swapped_id:
            return Rejection(row.source, "personal_data", "the replies differ in personal data alone")
        return masked


def _mask(kinds: Counter[str], text: str) -> str:
    """Return the text with `<KIND>` for each finding, and count them."""
    parts, start = [], 0
    for finding in find_personal_data(text):
        kinds[finding.kind] += 1
        parts += [text[start : finding.start], f"<{finding.kind}>"]
        start = finding.end
    return "".join([*parts, text[start:]])


def _mapped(row: Pair | Rejection, change: Callable[[str], str]) -> Pair | Rejection:
    """Return a pair with all its texts changed, those in tool calls, tools and documents, too; or what is kept."""

    def of_json(text: str) -> str:
        return canonical_json(_changed(json.loads(text), change)) if text else ""

    if isinstance(row, Rejection):
        return dataclasses.replace(row, kept=of_json(row.kept) + "\n") if row.kept else row
    prompt = row.prompt
    return dataclasses.replace(
        row,
        prompt=change(prompt)
        if isinstance(prompt, str)
        else tuple(Message(turn.role, change(turn.content), of_json(turn.extra)) for turn in prompt),
        chosen=change(row.chosen),
        rejected=change(row.rejected),
        chosen_extra=of_json(row.chosen_extra),
        rejected_extra=of_json(row.rejected_extra),
        inputs=of_json(row.inputs),
    )


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with all its texts changed, keys left as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, dict):
        return {name: _changed(item, change) for name, item in value.items()}
    return value


def find_personal_data(text: str) -> list[Finding]:
    """Return what personal data and secrets a text holds, in order and without overlap.

    Raises:
        ConfigError: A library is not installed.
    """
    findings: list[Finding] = []
    for finding in sorted(_candidates(text), key=lambda one: (one.start, -one.end)):
        if not findings or finding.start >= findings[-1].end:
            findings.append(finding)
    return findings


def _candidates(text: str) -> Iterator[Finding]:
    emails, numbers, secrets = _detectors()
    for at in re.finditer("@", text):  # the recogniser's time grows with the square of the text's length
        start = max(0, at.start() - _ADDRESS[0])
        for one in emails.analyze(text[start : at.end() + _ADDRESS[1]], emails.supported_entities, None):
            if start + one.start <= at.start() < start + one.end and not _CODE.match(text, start + one.end):
                yield Finding(start + one.start, start + one.end, one.entity_type)
    if re.search(r"\d", text):
        for recogniser in numbers:
            for one in recogniser.analyze(text, recogniser.supported_entities, None):
                written = _WRITTEN.get(one.entity_type, _ANYHOW)
                if one.score >= _LEAST_SCORE and written.fullmatch(text, one.start, one.end):
                    yield Finding(one.start, one.end, one.entity_type)
    for detector, pattern in secrets:
        for match in pattern.finditer(text):
            if any(detector.analyze_string(match[0])):
                end = _REST_OF_TOKEN.match(text, match.end())
                yield Finding(match.start(), end.end() if end else match.end(), _kind(detector.secret_type))
    for match in _PRIVATE_KEY.finditer(text):
        yield Finding(*match.span(), "PRIVATE_KEY")


def _kind(secret_type: str) -> str:
    return secret_type.upper().replace(" ", "_")


@functools.cache
def _detectors() -> tuple[Any, list[Any], list[tuple[Any, re.Pattern[str]]]]:
    """Return the recogniser of e-mail addresses, those of numbers, and detectors of secrets with their patterns.

    Raises:
        ConfigError: A library is not installed.
    """
    import importlib

    try:
        from presidio_analyzer import predefined_recognizers as known
        from tldextract import TLDExtract

        plugins = [
            getattr(importlib.import_module(f"detect_secrets.plugins.{name}"), _SECRETS[name]) for name in _SECRETS
        ]
    except ImportError as error:
        raise ConfigError(
            f"`ingest.personal_data` needs presidio-analyzer and detect-secrets ({error})",
            "install them: `pip install -c constraints.txt -e .[hygiene]`, or set it to off",
        ) from None

    domain = TLDExtract(suffix_list_urls=(), cache_dir=None)  # the list that the package holds, none from the network

    class Emails(known.EmailRecognizer):  # type: ignore[misc]
        def validate_result(self, pattern_text: str) -> bool:
            return bool(domain(pattern_text).fqdn)

    # strict about groups of digits, and national numbers in North America's form alone: others look like any number
    phones = known.PhoneRecognizer(supported_regions=("US",), leniency=3)
    numbers = [phones, known.CreditCardRecognizer(), known.IbanRecognizer(), known.UsSsnRecognizer()]
    detectors = [plugin() for plugin in plugins]
    return Emails(), numbers, [(detector, pattern) for detector in detectors for pattern in detector.denylist]
