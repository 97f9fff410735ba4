"""docs/params.md: every key of params.yaml with its default and the sentence that stands above it there.

run as: python -m tests.rules.params_page            says whether docs/params.md is true, exit code 1 when not
        python -m tests.rules.params_page --write    writes it
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import sys
from typing import Any

import yaml

from tests.rules.source import ROOT

PARAMS, PAGE = ROOT / "params.yaml", ROOT / "docs" / "params.md"
LONGEST_DEFAULT = 60  # characters; longer ones are lists and mappings, which are better read in params.yaml
HEAD = """# Parameters

`params.yaml` holds every parameter of the pipeline, in one section for each stage that has parameters. A stage is
run again when its own section changes. The section [`runtime`](#runtime) describes the machine: it changes speed and
memory, never a result, and no stage is run again for it. An unknown key or a value out of range stops the run with one
line, which names the key.

`python -m tests.rules.params_page --write` writes this page from `params.yaml`; a test compares the two.

## Where do I change …?

| what | where |
|---|---|
| the base model | `base.source`, `base.revision` |
| what it computes in | `base.compute_dtype`, `base.quantise` |
| which data, which columns, how much is held out | [`ingest`](#ingest) |
| lengths, truncation, the chat template | [`encode`](#encode) |
| the loss, β, learning rate, epochs, LoRA's shape | [`train`](#train); equations in [losses.md](losses.md) |
| which adapter training continues from | `train.init_adapter`: it is then the reference of the loss, too |
| which released version the new one has to beat | `respond.champion`; `python -m tasks.registry pin` writes it |
| what a good answer is | `winrate.judge`, `winrate.rules`; see [evidence.md](evidence.md) |
| when an adapter is promoted | `register.gate` |
| where versions are released to | `register.root`: a folder, or `s3://bucket/prefix` |
| what fits into this machine's memory, and who shards a base that does not | [`runtime`](#runtime) |
| where DVC keeps its cache | `dvc remote modify local url s3://bucket/path` |
"""


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of params.yaml: its path, the value as it stands there (empty where keys follow), its sentences."""

    path: str
    written: str
    sentences: str


def keys(text: str) -> list[Key]:
    """Return the keys of a params file in their order; sections are keys, too."""
    found: list[Key] = []
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip(" #"))
        elif key := re.match(r"^( *)([A-Za-z_]\w*):(?:\s+(.*))?$", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            found.append(Key(".".join(path), (key[3] or "").strip(), " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def page() -> str:
    """Return the whole of docs/params.md."""
    text = PARAMS.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    parts = [HEAD]
    for key in keys(text):
        section, _, name = key.path.partition(".")
        if not name:
            about = key.sentences or _stage_sentence(section)
            parts.append(f"\n## {section}\n\n{about}\n\n| key | default | what it is |\n|---|---|---|\n")
        else:
            cells = f"`{key.path}`", _default(key, values), key.sentences.replace("|", r"\|")
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def _default(key: Key, values: Any) -> str:
    """Return the default as code; nothing for a mapping of further keys."""
    for part in key.path.split("."):
        values = values[part]
    if isinstance(values, dict) and not key.written:
        return ""
    written = json.dumps(values, ensure_ascii=False) if isinstance(values, list) else key.written
    return f"`{written}`" if len(written) <= LONGEST_DEFAULT else "see `params.yaml`"


def _stage_sentence(section: str) -> str:
    """Return the first sentence of a stage's module."""
    docstring = ast.get_docstring(ast.parse((ROOT / "tasks" / f"{section}.py").read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ")


def main() -> int:
    """Write the page, or say whether it is that of params.yaml."""
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    is_true = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
    print(f"docs/params.md {'is' if is_true else 'is not'} that of params.yaml")
    return int(not is_true)


if __name__ == "__main__":
    sys.exit(main())
