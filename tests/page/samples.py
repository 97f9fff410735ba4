"""The folders that the report reads, made from formulas: every run of the tests sees the same numbers."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.files import atomic_folder, digest_of, manifest_digest, pretty_json, write_text
from tasks.report import Folders, ReportConfig

CONFIG = ReportConfig(title="DPO demo: better replies", license="apache-2.0", examples=8)
PARAMS: dict[str, Any] = {
    "base": {"source": "demo", "seed": 1},
    "ingest": {"sources": ["demo"], "test_share": 0.1},
    "train": {
        "objective": {"beta": 0.1},
        "learning_rate": 5e-4,
        "lora": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
    },
    "winrate": {"judge": {"kind": "openai", "model": "small-judge"}},
    "registry": {"secret_looking": "must not be shown"},
}
SLICES = ("billing", "delivery", "determiner_noun_agreement_with_adj_irregular", "passwords")
THINGS = ("parcel", "invoice", "lamp", "kettle", "password", "refund", "order", "teapot")
Change = Callable[[dict[str, Any]], None]


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


def question(i: int) -> str:
    thing = THINGS[i % len(THINGS)]
    return f"Hello, my {thing} number {100 + 7 * i} has not come yet. Can you tell me where my {thing} is?"


def reference_answer(i: int) -> str:
    return f"No idea. {'Please wait. ' * (1 + i % 4)}{THINGS[i % len(THINGS)].capitalize()}s are late sometimes"


def policy_answer(i: int) -> str:
    thing = THINGS[i % len(THINGS)]
    number = 100 + 7 * i
    return f"I am sorry that your {thing} is late. I asked the carrier about number {number}, and will write today."


def make_folders(
    root: Path,
    prompts: int = 212,
    pairs: int = 1900,
    hostile: str = "",
    winrate: Change | None = None,
    train: Change | None = None,
    rejects: int = 37,
    losses_every: int = 11,
    has_slices: bool = True,
    has_champion: bool = False,
    members: tuple[str, ...] = (),
) -> Folders:
    """Write every input of the report under ``root``; the changes are applied to metrics before writing."""
    folders = Folders(
        root / "data/base",
        root / "data/pairs",
        root / "data/tokens",
        root / "models/adapter",
        root / "results/train",
        root / "data/responses",
        root / "results/winrate",
        root / "results/report",
    )
    ids = [_id(question(i)) for i in range(prompts)]
    _base(folders.base)
    _pairs(folders.pairs, ids, pairs, rejects, hostile)
    _tokens(folders.tokens, ids, pairs, hostile, has_slices)
    _training(folders, pairs, prompts, train)
    inputs = {"tokens": manifest_digest(folders.tokens, "encode"), "adapter": manifest_digest(folders.adapter, "train")}
    _responses(folders.responses, inputs, ids, hostile, has_champion)
    scores = {name: _score(i, losses_every) for i, name in enumerate(ids)}
    verdicts = _verdicts(scores, hostile, has_champion, members)
    _winrate(folders.winrate, scores, winrate, has_slices, hostile, verdicts, has_champion)
    return folders


def _base(folder: Path) -> None:
    files = {"model.safetensors": {"sha256": "ab" * 32, "size": 4}}
    about = {"stage": "base", "kind": "demo", "source": "demo", "revision": None}
    with atomic_folder(folder, {**about, "model_files": files, "digest": digest_of(files)}) as draft:
        write_text(draft / "config.json", "{}\n")


def _pairs(folder: Path, ids: list[str], pairs: int, rejects: int, hostile: str) -> None:
    with atomic_folder(folder, {"stage": "ingest"}) as draft:
        reasons = ("duplicate", "chosen equals rejected", "empty answer", f"no reply at the end{hostile}")
        rows = [
            {"source": f"pairs.jsonl:{13 * i}", "reason": reasons[min(i % 7, 3)], "detail": f"row {i}{hostile}"}
            for i in range(rejects)
        ]
        write_text(draft / "rejects.jsonl", _lines(rows))
        counted = {
            "rows_read": pairs + len(ids) + rejects + 40,
            "outcomes": pairs + len(ids) + rejects + 40,
            "forms": {"pairs.jsonl": "standard: the columns", f"votes{hostile}.csv": f"votes: `winner{hostile}`"},
            "pairs": {"train": pairs, "test": len(ids)},
            "prompts": {"train": -(-pairs // 2), "test": len(ids)},
            "left_out": {
                "rejected": max(rejects - 5, 0),
                "duplicate": min(rejects, 5),
                "filtered": 30,
                "over_limit": 10,
            },
            "columns_not_read": {"pairs.jsonl": ["annotator", f"id{hostile}"]},
            "columns_ignored": {"pairs.jsonl": [f"tools{hostile}"]},
            "rows_by_source": {"pairs.jsonl": pairs + len(ids) + rejects, f"votes{hostile}.csv": 40},
            "slices": {name + hostile: {"train": pairs // 4, "test": len(ids) // 4} for name in SLICES},
            "slices_found": len(SLICES),
            "chosen_longer_share": 0.625,
            "languages": {"de": 20, "en": 191, "und": 1},
            "personal_data": {"pairs": 3, f"EMAIL_ADDRESS{hostile}": 4},
            "margin": {"pairs": 7, "min": -1.5, "mean": 0.25, "max": 2.0},
            "histograms": {
                "characters": {
                    "edges": [10, 13, 16, 20, 25],
                    "prompt": [1, 0, 9, 2],
                    "chosen": [3, 4, 5, 0],
                    "rejected": [0, 6, 4, 2],
                },
                "margin": {"edges": [-1.5, -1.0, 0.0, 1.0, 2.0], "pairs": [1, 2, 0, 4]},
            },
        }
        write_text(draft / "metrics.json", pretty_json(counted))


def _tokens(folder: Path, ids: list[str], pairs: int, hostile: str, has_slices: bool) -> None:
    with atomic_folder(folder, {"stage": "encode"}) as draft:
        for name, rows in (("train", pairs), ("test", len(ids))):
            at = np.arange(rows)
            lengths = np.stack([24 + at % 9, 22 + (at * 7) % 19, 15 + (at * 11) % 34], axis=1).astype(np.int32)
            np.save(draft / f"{name}.lengths.npy", lengths)
        prompts = [
            {
                "prompt_id": name,
                "slice": SLICES[i % len(SLICES)] + hostile if has_slices else None,
                "display": f"system: You are a support desk.\nuser: {question(i)}{hostile}",
                "question": question(i) + hostile,
                "ids": [1, 2, 3],
                "gold_chosen": policy_answer(i),
                "gold_rejected": reference_answer(i),
            }
            for i, name in enumerate(ids)
        ]
        write_text(draft / "prompts.jsonl", _lines(prompts))
        dropped = [{"pair_id": _id("long"), "split": "train", "reason": "prompt too long", "detail": "1203 tokens"}]
        write_text(draft / "dropped.jsonl", _lines(dropped if pairs > 100 else []))
        write_text(draft / "metrics.json", "{}\n")


def _measures(at: float, wobble: float = 0.0) -> dict[str, float]:
    """Return measures at a share ``at`` of training: the margin grows, chosen dips and recovers a little."""
    margin = 3.1 * (1 - math.exp(-3 * at)) + wobble
    chosen = -31.0 - 2.4 * math.sin(2.2 * at) + 4 * wobble
    return {
        "loss": math.log1p(math.exp(-margin)),
        "accuracy": min(1.0, max(0.0, 0.5 + 0.47 * (1 - math.exp(-4 * at)) + 0.2 * wobble)),
        "margin": margin,
        "reward_chosen": 0.1 * (chosen + 31),
        "reward_rejected": 0.1 * (chosen + 31) - margin,
        "logp_chosen": chosen,
        "logp_rejected": -36.0 - 30 * at + 5 * wobble,
    }


def _training(folders: Folders, pairs: int, prompts: int, change: Change | None) -> None:
    steps = max(1, pairs // 16)
    rows = [
        {"step": step, **_measures(step / steps, 0.35 * math.sin(2.9 * step)), "grad_norm": 1.0, "learning_rate": 1e-4}
        for step in range(1, steps + 1)
    ]
    evals = [{"step": round(i * steps / 8), **_measures(i / 8)} for i in range(9)]
    names = ("loss", "accuracy", "margin", "logp_chosen", "logp_rejected", "reward_chosen", "reward_rejected")
    metrics: dict[str, Any] = {
        "pairs": {"train": pairs, "test": prompts},
        "steps": steps,
        "epochs": 1,
        "before": {name: evals[0][name] for name in names},
        "after": {name: evals[-1][name] for name in names},
        "train_loss_last": rows[-1]["loss"],
        "tokens_train": pairs * 84,
    }
    if change:
        change(metrics)
    with atomic_folder(folders.train_results, {"stage": "train"}) as draft:
        write_text(draft / "metrics.json", pretty_json(metrics))
        write_text(draft / "steps.csv", _csv(rows))
        write_text(draft / "evals.csv", _csv(evals))
    about = {"stage": "train", "inputs": {"tokens": manifest_digest(folders.tokens, "encode"), "reference": "2e" * 32}}
    with atomic_folder(folders.adapter, about) as draft:
        write_text(draft / "adapter_config.json", "{}\n")


def _csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _responses(folder: Path, inputs: dict[str, str], ids: list[str], hostile: str, has_champion: bool) -> None:
    texts = {"policy": policy_answer, "reference": reference_answer, "control": lambda i: reference_answer(i + 1)}
    texts |= {"champion": lambda i: f"Sorry about that. {reference_answer(i)}"} if has_champion else {}
    rows = [
        {
            "prompt_id": name,
            "side": side,
            "sample": 0,
            "text": text(i) + hostile,
            "n_tokens": len(text(i).split()) + (i * 5) % 7,
            "finish": "length" if side == "reference" and i % 9 == 0 else "stop",
        }
        for i, name in enumerate(ids)
        for side, text in texts.items()
    ]
    means = {side: float(np.mean([row["n_tokens"] for row in rows if row["side"] == side] or [0])) for side in texts}
    sides = {
        side: {"tokens_mean": mean, "empty": 0.0, "truncated": 0.1 * (side == "reference"), "distinct_ratio": 0.9}
        for side, mean in means.items()
    }
    kl = {"per_answer": 12.34, "per_answer_se": 0.56, "per_token": 0.617}
    metrics = {"prompts": len(ids), "samples": 1, "sides": sides, "adapter_max_abs_delta_logit": 2.5, "kl": kl}
    with atomic_folder(folder, {"stage": "respond", "inputs": inputs}) as draft:
        write_text(draft / "responses.jsonl", _lines(rows))
        write_text(draft / "metrics.json", pretty_json(metrics))


def _score(i: int, losses_every: int) -> float | None:
    if losses_every and i % losses_every == losses_every - 1:
        return 0.0
    return 0.5 if i % 23 == 5 else 1.0


def rate(scores: list[float]) -> dict[str, float]:
    """Return a mean with its normal interval, kept inside [0, 1]."""
    mean = sum(scores) / len(scores)
    half = 1.96 * math.sqrt(max(mean * (1 - mean), 0.01) / len(scores))
    return {"win_rate": mean, "low": max(mean - half, 0.0), "high": min(mean + half, 1.0)}


def agreement(share: float, decided: int = 180, **changes: Any) -> dict[str, Any]:
    """Return a judge beside labels, as `qualify` writes it."""
    return {
        "pairs": 200,
        "decided": decided,
        "ties": 17,
        "invalid": 3,
        "agreement": {"value": share, "low": share - 0.05, "high": share + 0.05},
        "bound": share - 0.04,
        "kappa": {"value": 2 * share - 1, "low": 2 * share - 1.1, "high": 2 * share - 0.9},
        "first_position_share": {"value": 0.52, "low": 0.47, "high": 0.57},
        "consistency": 0.9,
    } | changes


def papers(share: float = 0.8, faults: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """Return the judge's papers, as `qualify` writes them."""
    return {
        "judge": "5a" * 32,
        "kind": "openai",
        "agreement": agreement(share),
        "length_agreement": agreement(0.5, first_position_share=None),
        "canaries": {"dot": 1.0, "empty": 1.0, "instruction": 0.95, "refusal": 1.0},
        "min_agreement": 0.5,
        "position_bias": 0.07,
        "faults": list(faults),
        "qualified": not faults,
    } | changes


def distrusted(metrics: dict[str, Any]) -> None:
    """Let the guard on the judge's agreement fail, as `winrate` writes it."""
    metrics["qualification"] = papers(0.44, ("it agrees with the labels on 44.0 % of 180 decided pairs",))
    metrics["guards"]["judge_agreement"] = {"value": 0.4, "limit": 0.5, "rule": "above", "passed": False}


def _verdicts(
    scores: dict[str, float | None], hostile: str, has_champion: bool, members: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return both orders of every game; every seventh is decided by the order alone."""
    opponents = ["reference", "control"] + (["champion"] if has_champion else [])
    return [
        {
            "candidate_side": "policy" if opponent != "control" else "control",
            "opponent_side": opponent if opponent != "control" else "reference",
            "prompt_id": name,
            "sample": 0,
            "order": order,
            "status": "invalid" if score is None else "tie" if score == 0.5 else "ok",
            "p_candidate": score if score != 0.5 or i % 2 else float(order == "AB"),
            "judge": "5a" * 32,
            "detail": {
                "reason": f"The one is kinder.{hostile}",
                "candidate": {"total": 0.9, "remark": "warm", "rules": {"ending": 1.0, f"tone{hostile}": 0.5}},
                "opponent": {"total": 0.4, "rules": {"ending": 1.0}},
                **({"members": {member: score if at else 0.0 for at, member in enumerate(members)}} if members else {}),
            },
        }
        for opponent in opponents
        for i, (name, score) in enumerate(scores.items())
        for order in ("AB", "BA")
    ]


def _winrate(
    folder: Path,
    scores: dict[str, float | None],
    change: Change | None,
    has_slices: bool,
    hostile: str,
    verdicts: list[dict[str, Any]],
    has_champion: bool,
) -> None:
    known = [score for score in scores.values() if score is not None]
    overall = rate(known)
    by_slice = {name + hostile: known[i :: len(SLICES)] for i, name in enumerate(SLICES)}
    metrics: dict[str, Any] = {
        **overall,
        "prompts": len(scores),
        "coverage": 1.0,
        "se": 0.018,
        "alpha": 0.05,
        "judge_kind": "openai",
        "qualification": papers(),
        "lower_bound": max(overall["low"], 0.0),
        "interval_method": "mean ± z·SE",
        "wins": sum(score > 0.5 for score in known),
        "ties": sum(score == 0.5 for score in known),
        "losses": sum(score < 0.5 for score in known),
        "p_value": 0.0001,
        "consistency": 0.97,
        "first_position_share": 0.51,
        "length_controlled": {"win_rate": 0.86, "low": 0.79, "high": 0.91},
        "smallest_detectable_win_rate": 0.585,
        "control": {"win_rate": 0.491, "low": 0.42, "high": 0.56},
        "lengths": {"policy_tokens_mean": 21.4, "reference_tokens_mean": 14.2, "ratio": 1.5},
        "guards": {
            "adapter_applied": {"value": 2.5, "limit": 0.0, "rule": "above", "passed": True},
            "distinct_ratio": {"value": 0.93, "limit": 0.5, "rule": "at least", "passed": True},
            "length_ratio": {"value": 1.5, "limit": [0.5, 2.0], "rule": "between", "passed": True},
        },
        "slices": {name: {"prompts": len(part), **rate(part)} for name, part in by_slice.items() if part}
        if has_slices
        else {},
    }
    if has_champion:
        metrics["champion"] = {"digest": "66805e367a53" + "f" * 52, "win_rate": 0.4975, "low": 0.4926, "high": 0.5024}
    if change:
        change(metrics)
    with atomic_folder(folder, {"stage": "winrate"}) as draft:
        write_text(draft / "metrics.json", pretty_json(metrics))
        write_text(draft / "scores.jsonl", _lines({"prompt_id": n, "score": s} for n, s in scores.items()))
        write_text(draft / "verdicts.jsonl", _lines(verdicts))
        if has_champion:
            write_text(draft / "champion_scores.jsonl", _lines({"prompt_id": n, "score": 0.5} for n in scores))
