"""JSON Lines: one object a line, in UTF-8, with sorted keys, so that equal rows are equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError
from tasks.core.files import write_text


def json_line(row: Mapping[str, Any]) -> str:
    """Return ``row`` as a line of JSON, its line feed included.

    Raises:
        ValueError: It holds a NaN or an infinity.
    """
    return json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False) + "\n"


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` to ``path`` atomically, one a line."""
    write_text(path, "".join(map(json_line, rows)))


def read_json_lines(path: Path, stage: str, keys: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that ``stage`` wrote, one at a time.

    Args:
        path: The file.
        stage: Named in the advice: to run it again writes the file anew.
        keys: What every object must have.

    Raises:
        ArtifactError: The file is missing, or a line is not an object with these keys.
    """
    advice = f"run `dvc repro -f {stage}`"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", advice)

    number = 0
    with path.open(encoding="utf-8") as stream:
        try:
            for number, line in enumerate(stream, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ArtifactError(f"{path}:{number} holds {type(row).__name__}, not an object", advice)
                if missing := [key for key in keys if key not in row]:
                    raise ArtifactError(f"{path}:{number} has no `{missing[0]}`", advice)
                yield row
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{path} is not UTF-8 text behind line {number} ({error})", advice) from None
        except json.JSONDecodeError as error:
            raise ArtifactError(f"line {number} of {path} is not JSON ({error})", advice) from None
