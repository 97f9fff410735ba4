"""`python -m tasks.registry board`: the base, the champions and the newest version on one scale."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Mapping

from tasks.core.errors import RegistryError
from tasks.estimation.board import Duel, board
from tasks.registry.cli.output import Answer, registry_of, store_of, table
from tasks.registry.log.evidence import Evidence
from tasks.registry.log.names import Address, short
from tasks.registry.release.release import evidence_of

BASE = "base"


def show_board(args: Namespace) -> Answer:
    """Rate the base, every champion and the newest version on one scale (Bradley-Terry)."""
    registry = registry_of(store_of(args), Address.parse(args.name).name)
    history = registry.history()
    serials, kept = history.serials(), history.kept()
    if not kept:
        raise RegistryError(f"`{registry.name}` keeps no version", "register one: `dvc repro -s -f register`")
    chosen = [digest for digest in kept if digest == kept[-1] or history.was_promoted(digest, args.alias)]
    evidence = {digest: evidence_of(registry, digest) for digest in chosen}

    # credits of another base or judge stand on another scale
    left_out = {digest: why for digest in chosen if (why := evidence[digest].differs_from(evidence[kept[-1]]))}
    rated = {digest: evidence[digest] for digest in chosen if digest not in left_out}
    names = {BASE: BASE} | {digest: f"{registry.name}@v{serials[digest]}" for digest in chosen}

    rows, shown = board(_duels(rated), BASE), []
    for row in rows:
        interval = f"{row.low:.0f} to {row.high:.0f}" if row.name != BASE else "-"
        digest = short(row.name) if row.name != BASE else "-"
        shown.append([names[row.name], digest, f"{row.rating:.0f}", interval, f"{row.win_rate:.4f}"])
    lines = table(["model", "digest", "Elo points", "95 % interval", "win rate against the base"], shown)
    lines += [f"{names[digest]} is left out: {why}" for digest, why in left_out.items()]
    values = {"standings": [dataclasses.asdict(row) for row in rows], "left_out": left_out}
    return Answer({"name": registry.name, "alias": args.alias, **values}, lines)


def _duels(rated: Mapping[str, Evidence]) -> list[Duel]:
    """Return each version's credits against the base, and head to head with another one; missing ones are left out."""
    duels = []
    for digest, evidence in rated.items():
        duels.append(Duel(digest, BASE, _known(evidence.scores)))
        if evidence.duel_with in rated:
            duels.append(Duel(digest, str(evidence.duel_with), _known(evidence.duel)))
    return duels


def _known(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {prompt: score for prompt, score in scores.items() if score is not None}
