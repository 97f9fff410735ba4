"""How people name a version in the registry, under strict patterns.

demo                      a name: one series of versions
demo@champion             the version that an alias points to
demo@v3                   the third version that was registered
demo@1f0c9a2b             a version by its digest, or by a unique prefix of at least 8 digits
"""

from __future__ import annotations

import dataclasses
import re

from tasks.core.errors import RegistryError

DEFAULT_ALIAS = "champion"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9]|[._-](?=[a-z0-9])){0,62}")
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,64}")
_SERIAL = re.compile(r"v([1-9][0-9]{0,6})")


@dataclasses.dataclass(frozen=True)
class Address:
    """A name and, behind `@`, a version in one of three forms.

    Attributes:
        name: The series of versions.
        selector: An alias, `v<serial>` or a digest's prefix; None if only the name was given.
    """

    name: str
    selector: str | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Split `name` or `name@selector` and check both parts.

        Raises:
            RegistryError: A part does not have one of the forms above.
        """
        name, at, selector = text.partition("@")
        check_name(name)
        if at and not (_ALIAS.fullmatch(selector) or _PREFIX.fullmatch(selector)):
            raise RegistryError(
                f"`{text}` names no version: {selector!r} is no alias, serial or digest",
                f"write `{name}@champion`, `{name}@v1` or `{name}@` and at least 8 digits of the digest",
            )
        return cls(name, selector if at else None)


def is_digest(text: object) -> bool:
    """Tell whether ``text`` is a whole digest: 64 hexadecimal digits in lower case."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def is_prefix(text: str) -> bool:
    """Tell whether ``text`` can be the beginning of a digest (8 digits or more)."""
    return _PREFIX.fullmatch(text) is not None


def serial_of(text: str) -> int | None:
    """Return 3 for `v3`, and None for what is not a serial."""
    match = _SERIAL.fullmatch(text)
    return int(match.group(1)) if match else None


def is_name(text: object) -> bool:
    """Tell whether ``text`` is a valid name of a series of versions."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def is_alias(text: object) -> bool:
    """Tell whether ``text`` is a valid alias; what reads as a digest or a serial is not."""
    is_word = isinstance(text, str) and _ALIAS.fullmatch(text) is not None
    return is_word and not is_prefix(str(text)) and serial_of(str(text)) is None


def check_name(name: str) -> str:
    """Return ``name`` if it is a valid name.

    Raises:
        RegistryError: It is not.
    """
    if is_name(name):
        return name
    advice = "use 1 to 63 of a-z, 0-9 and single . _ - between them"
    raise RegistryError(f"{name!r} cannot be a name in the registry", advice)


def check_alias(alias: str) -> None:
    """Refuse what is not a valid alias.

    Raises:
        RegistryError: It is not.
    """
    if not is_alias(alias):
        advice = "use a letter and up to 31 of a-z, 0-9, _ and -; not a serial (v3) or a digest"
        raise RegistryError(f"{alias!r} cannot be an alias", advice)


def short(digest: str) -> str:
    """Return the first twelve digits, by which people tell versions apart."""
    return digest[:12]
