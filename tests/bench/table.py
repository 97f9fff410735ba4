"""The tables of benchmarks, made from the files in tests/bench/results.

All are in docs/benchmarks.md, and five rows in README.md. In each page they stand between two comments,
`<!-- benchmarks -->` and `<!-- /benchmarks -->`.

run as: python -m tests.bench.table    writes them into both pages
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
SHORT = ("train-cpu-hh.json", ("ours", "ours_bf16", "trl_tuned", "trl_default", "agilerl_no_gc"))  # the README's rows
TITLES = {
    "train": "Training",
    "reference": "Scoring the reference",
    "head": "The head alone, forward and backward",
    "scaling": "Ranks and token budgets",
    "ablation": "Ablation",
}
SHARED = ("torch", "transformers", "peft")  # packages to name, of a peer where its own are others
Result = dict[str, Any]
Column = tuple[str, Callable[[Result, Result], str]]  # its head; a cell from an arm and the arm it is compared with


def draw(folder: Path) -> str:
    """Return the tables of all results in ``folder`` as Markdown; a sentence where there are none."""
    blocks = []
    for bench in TITLES:
        paths = sorted(folder.glob(f"{bench}-*.json"))
        blocks += [_block(bench, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    return "\n\n".join(blocks) or "Nothing has been measured yet."


def draw_short(folder: Path) -> str:
    """Return the README's table: few arms of one training benchmark, and few columns."""
    name, arms = SHORT
    result = json.loads((folder / name).read_text(encoding="utf-8"))
    few = {arm: result["arms"][arm] for arm in arms}
    return _table(few, _columns("train", {**result, "arms": few}, COLUMNS["short"]))


def _block(bench: str, result: Result) -> str:
    """Return one result: what was measured, on what, and a row an arm."""
    table = _table(result["arms"], _columns(bench, result, COLUMNS[bench]))
    return f"**{TITLES[bench]}**: {_subject(bench, result)}\n\n{table}"


def _columns(bench: str, result: Result, fixed: list[Column]) -> list[Column]:
    """Return the columns of a result: the fixed ones, whole epochs of a training, and ours in bfloat16 where it ran."""
    columns = list(fixed)
    if bench == "train":
        columns.insert(2, ("one epoch with its reference", _whole_epoch(result)))
    if in_bf16 := result["arms"].get("ours_bf16"):
        place = 1 + next(i for i, (_, cell) in enumerate(columns) if cell is _times)
        columns.insert(place, ("ours bf16 by", lambda arm, _: _times(arm, in_bf16)))
    return columns


def _table(arms: dict[str, Result], columns: list[Column]) -> str:
    """Return a Markdown table with a row an arm, each compared with the first."""
    first = next(iter(arms.values()))
    lines = [f"| arm | {' | '.join(head for head, _ in columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, arm in arms.items():
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cell(arm, first) for _, cell in columns)} |")
    return "\n".join(lines)


def _subject(bench: str, result: Result) -> str:
    """Say in a sentence what was measured, on what machine, with what versions."""
    model, lengths, about = result["model"], result["lengths"], result["machine"]
    words = [
        f"{model['name']} ({model['layers']} layers, hidden {model['hidden']}, vocabulary {model['vocabulary']:,})"
    ]
    if bench == "head":
        words.append(f"{result['head']['tokens']:,} completion tokens")
    else:
        medians = "/".join(str(number) for number in lengths["medians"].values())
        words.append(f"profile {lengths['profile']} (medians {medians}), {lengths['pairs_per_step']} pairs a step")
    threads = "1 thread a rank" if bench == "scaling" else f"{about['threads']} threads"
    where = about.get("gpu") or f"{about['processor']}, {threads}"
    in_bf16 = about.get("matmul_bf16_flops_per_s")
    also = f", in bf16 {in_bf16 / 1e9:,.0f}" if in_bf16 else ""
    words.append(f"{where}, measured matmul rate {about['matmul_flops_per_s'] / 1e9:,.0f} GFLOP/s{also}")
    return "; ".join([*words, *_versions(result["versions"])]) + "."


def _versions(versions: dict[str, dict[str, str]]) -> list[str]:
    """Name our packages, and each peer with those of its packages that are others."""
    ours = versions.get("ours", {})
    found = [", ".join(f"{name} {ours[name]}" for name in SHARED if name in ours)]
    for who, its in versions.items():
        if who != "ours":
            others = [f"{name} {its[name]}" for name in SHARED if name in its and its[name] != ours.get(name)]
            found.append(f"{who} {its.get(who, '')}" + f" (with {', '.join(others)})" * bool(others))
    return found


def _whole_epoch(result: Result) -> Callable[[Result, Result], str]:
    """Return what compares whole epochs with nothing kept from before: each pair's reference, then its steps."""
    pairs = result["lengths"]["pairs"]

    def seconds_of_a_pair(arm: Result) -> float:
        return float(1 / arm["pairs_per_s"] + arm["reference_seconds"] / pairs)

    return lambda arm, first: f"{seconds_of_a_pair(arm) / seconds_of_a_pair(first):.2f}x"


def _field(name: str, form: str, times: float = 1.0) -> Callable[[Result, Result], str]:
    """Return what writes one number of an arm, ``times`` as large."""
    return lambda arm, _: form.format(times * arm[name])


def _times(arm: Result, first: Result) -> str:
    return f"{first['pairs_per_s'] / arm['pairs_per_s']:.2f}x"


def _relative(arm: Result, first: Result) -> str:
    return f"{arm['pairs_per_s'] / first['pairs_per_s']:.2f}x"


def _settings(arm: Result, _: Result) -> str:
    return str(arm["settings"]) or "as it comes"


def _own_peak(arm: Result, _: Result) -> str:
    return f"{(arm['peak_bytes'] - arm['start_bytes']) / 1e6:,.0f} MB"


_speed, _peak = _field("pairs_per_s", "{:.2f}"), _field("peak_bytes", "{:.2f} GB", 1e-9)
TRAINING: list[Column] = [
    ("pairs/s", _speed),
    ("the first arm is faster by", _times),
    ("peak memory", _peak),
    ("utilisation", _field("utilisation", "{:.0f} %", 100)),
    ("loss curve off by", _field("largest_loss_difference", "{:.0e}")),
    ("settings", _settings),
]
COLUMNS: dict[str, list[Column]] = {
    "train": [TRAINING[0], ("ours is faster by", _times), *TRAINING[2:]],
    "short": [TRAINING[0], ("ours is faster by", _times), TRAINING[2], TRAINING[4]],
    "scaling": [TRAINING[0], ("of the first arm", _relative), *TRAINING[2:5]],
    "ablation": [TRAINING[0], ("of the whole", _relative), *TRAINING[2:5]],
    "reference": [
        ("pairs/s", _speed),
        ("unique tokens/s", _field("tokens_per_s", "{:,.0f}")),
        ("ours is faster by", _times),
        ("peak memory", _peak),
        ("sums off by", _field("largest_logp_difference", "{:.0e}")),
        ("settings", _settings),
    ],
    "head": [
        ("ms", _field("seconds", "{:.0f}", 1e3)),
        ("of the first arm", _relative),
        ("memory above start", _own_peak),
        ("off by", _field("largest_difference", "{:.0e}")),
    ],
}


def put(text: str, tables: str) -> str:
    """Return ``text`` with the tables between its two comments.

    Raises:
        ValueError: It has no such comments, or not one pair.
    """
    if (text.count(BEGIN), text.count(END)) != (1, 1) or text.index(BEGIN) > text.index(END):
        raise ValueError(f"a page needs one line `{BEGIN}` and one line `{END}` below it, where the tables go")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return between.sub(lambda _: f"{BEGIN}\n{tables}\n{END}", text)


def main() -> None:
    """Write the tables into both pages."""
    for page, tables in ((PAGE, draw(BENCH / "results")), (README, draw_short(BENCH / "results"))):
        try:
            page.write_text(put(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
        except ValueError as error:
            sys.exit(f"{page.name}: {error}")


if __name__ == "__main__":
    main()
