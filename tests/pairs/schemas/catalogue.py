"""Every schema of the table in docs/schemas.md.

run as: python -m tests.pairs.schemas.catalogue            says whether docs/schemas.md is true, exit code 1 when not
        python -m tests.pairs.schemas.catalogue --write    writes it
"""

from __future__ import annotations

import json
import sys

from tests.conftest import ROOT
from tests.pairs.schemas import schemas_feedback, schemas_messages, schemas_ranked, schemas_texts, schemas_votes
from tests.pairs.schemas.schema import Schema

PAGE = ROOT / "docs" / "schemas.md"
GROUPS = {
    "Texts in columns": schemas_texts.SCHEMAS,
    "Messages": schemas_messages.SCHEMAS,
    "Votes on two answers": schemas_votes.SCHEMAS,
    "Ranked and scored answers": schemas_ranked.SCHEMAS,
    "Feedback, and data without pairs": schemas_feedback.SCHEMAS,
}
SCHEMAS = {schema.name: schema for schemas in GROUPS.values() for schema in schemas}
# schemas that no reader reads yet: their tests fail, and must; take a name out when its reader is there
WAITING: frozenset[str] = frozenset()
HEAD = """# Schemas

How each published schema of preference data is read: as it stands, by a line of `ingest` in `params.yaml`, or why
it is refused. Each row is a test on made-up rows in that schema, and its pairs are compared one by one.
`python -m tests.pairs.schemas.catalogue --write` writes this page; a test compares the two. How columns are named is in
[data.md](data.md).
"""


def page() -> str:
    """Return the whole of docs/schemas.md."""
    parts = [HEAD]
    for title, schemas in GROUPS.items():
        parts.append(f"\n## {title}\n\n| schema | published at or by | how it is read |\n|---|---|---|\n")
        parts += [f"| {schema.name} | {schema.where} | {_reading(schema)} |\n" for schema in schemas]
    return "".join(parts)


def _reading(schema: Schema) -> str:
    if schema.name in WAITING:
        how = "not yet"
    elif schema.refused:
        how = "refused"
    else:
        how = ", ".join(f"`{key}: {_flow(value)}`" for key, value in schema.params.items()) or "as it stands"
    return f"{how}: {schema.why}" if schema.why else how


def _flow(value: object) -> str:
    """Return a value as YAML in one line."""
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def main() -> int:
    """Write the page, or say whether it is up to date."""
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    is_true = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
    print(f"docs/schemas.md {'is' if is_true else 'is not'} up to date")
    return int(not is_true)


if __name__ == "__main__":
    sys.exit(main())
