"""Register, promote, roll back: what the log says, and what it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tasks.core.errors import GateRefused, RegistryError
from tasks.registry.gate import INCONCLUSIVE, KEEP, PROMOTE, GateConfig
from tasks.registry.registry import Registry
from tasks.registry.release import Release, promote, register, rollback
from tests.registry.samples import sample, scores_of

GATE = GateConfig()


def release(registry: Registry, seed: int, wins: int, alias: str = "champion") -> Release:
    return register(registry, *sample(seed, scores_of(wins, losses=100 - wins)), alias, GATE)


def deeds(registry: Registry) -> list[str]:
    return [entry.deed.action for entry in registry.history().entries]


def test_the_first_version_above_the_reference_becomes_champion(registry: Registry):
    done = release(registry, 0, wins=80)
    assert (done.serial, done.is_promoted, done.decision.outcome) == (1, True, PROMOTE)
    assert registry.find("champion") == registry.find(None) == registry.find("v1") == done.digest
    assert deeds(registry) == ["register", "promote"]


def test_a_version_trained_on_swapped_pairs_is_recorded_and_never_promoted(registry: Registry):
    done = release(registry, 0, wins=10)
    assert (done.is_promoted, done.decision.outcome) == (False, KEEP)
    assert deeds(registry) == ["register"]
    with pytest.raises(GateRefused, match=r"0\.1000 on 100 prompts") as caught:
        promote(registry, done.digest, "champion")
    assert caught.value.exit_code == 3
    assert registry.history().aliases() == {}


def test_each_version_on_the_same_prompts_is_a_further_look(registry: Registry):
    looks = [release(registry, seed, wins=52 + seed).decision.attempt for seed in range(3)]
    again = release(registry, 1, wins=53)
    assert looks == [1, 2, 3]
    assert again.decision.attempt == 2  # the same bytes are the same look
    other = {f"q{number}": 1.0 for number in range(60)}
    assert register(registry, *sample(9, other), "champion", GATE).decision.attempt == 1


def test_a_challenger_takes_over_only_when_it_is_better_than_the_champion(registry: Registry):
    first = release(registry, 0, wins=60)
    assert first.is_promoted
    worse = release(registry, 1, wins=55)
    assert (worse.decision.outcome, worse.decision.champion) == (KEEP, first.digest)
    better = release(registry, 2, wins=98)
    assert (better.decision.outcome, better.is_promoted) == (PROMOTE, True)
    assert registry.find("champion") == better.digest


def test_a_decision_against_an_earlier_champion_promotes_nothing(registry: Registry):
    first, second = release(registry, 0, wins=70), release(registry, 1, wins=99)
    assert second.is_promoted
    with pytest.raises(GateRefused, match=f"against the champion {second.digest[:12]}"):
        promote(registry, first.digest, "champion")  # its own decision.json says `promote`, of another time


def test_a_person_may_overrule_the_gate_and_the_log_keeps_the_reason(registry: Registry):
    done = release(registry, 0, wins=50)
    assert promote(registry, done.digest, "champion", override="the judge is blind to tone") is True
    entry = registry.history().entries[-1]
    assert (entry.deed.authority, entry.deed.reason) == ("override", "the judge is blind to tone")
    assert entry.deed.decision is not None
    assert entry.deed.decision["outcome"] in (KEEP, INCONCLUSIVE)
    assert promote(registry, done.digest, "champion", override="again") is False
    assert len(registry.history().entries) == 2


def test_rolling_back_twice_goes_two_versions_back_and_then_no_further(registry: Registry):
    first, second, third = (release(registry, seed, wins=50) for seed in range(3))
    for done in (first, second, third):
        promote(registry, done.digest, "champion", override="in turn")
    assert rollback(registry, "champion") == (third.digest, second.digest)
    assert rollback(registry, "champion", "worse in use") == (second.digest, first.digest)
    assert registry.find("champion") == first.digest
    with pytest.raises(RegistryError, match="never named another version"):
        rollback(registry, "champion")
    assert registry.history().entries[-1].deed.reason == "worse in use"


def test_a_rolled_back_version_is_not_promoted_again_by_registering_it_again(registry: Registry):
    release(registry, 0, wins=60)
    second = release(registry, 1, wins=98)
    rollback(registry, "champion", "it swears")
    before = registry.history().entries
    again = release(registry, 1, wins=98)
    assert registry.history().entries == before
    assert registry.find("champion") != again.digest == second.digest


def test_a_champion_that_changes_between_decision_and_promotion_is_weighed_anew(registry: Registry):
    base = release(registry, 0, wins=50)
    promote(registry, base.digest, "champion", override="a start")
    rival = release(registry, 1, wins=50)

    class Overtaken(type(registry.store)):  # another process promotes the rival once ours is registered
        def put(self, key, content):
            is_ours = key.endswith("log/00000004.json")
            created = super().put(key, content)
            if is_ours and created:
                strong = Registry(registry.store, "demo")
                promote(strong, rival.digest, "champion", override="meanwhile")
            return created

    late = Registry(Overtaken(Path(registry.store.label)), "demo")
    done = register(late, *sample(2, scores_of(51, losses=49)), "champion", GATE)
    assert done.decision.outcome != PROMOTE
    done = release(late, 3, wins=99)
    assert (done.is_promoted, done.decision.champion) == (True, rival.digest)


def test_a_promotion_that_was_decided_but_overtaken_is_decided_against_the_new_champion(registry: Registry):
    strong = release(registry, 0, wins=97)
    rollback_target = release(registry, 1, wins=50)
    promote(registry, rollback_target.digest, "champion", override="to have a weak champion")

    class Overtaken(type(registry.store)):
        def put(self, key, content):
            created = super().put(key, content)
            if created and b'"action": "register"' in (content if isinstance(content, bytes) else b""):
                rollback(Registry(registry.store, "demo"), "champion")  # back to the strong one
            return created

    late = Registry(Overtaken(Path(registry.store.label)), "demo")
    done = register(late, *sample(2, scores_of(90, losses=10)), "champion", GATE)
    assert done.decision.champion == strong.digest
    assert (done.is_promoted, done.decision.outcome) == (False, KEEP)
    logged = late.history().registered[done.digest].deed.decision
    assert logged is not None
    assert (logged["outcome"], logged["champion"]) == (PROMOTE, rollback_target.digest)


def test_another_alias_has_a_history_of_its_own(registry: Registry):
    done = release(registry, 0, wins=80, alias="staging")
    assert registry.history().aliases() == {"staging": done.digest}
    promote(registry, done.digest, "champion")
    assert registry.history().aliases() == {"champion": done.digest, "staging": done.digest}


LOG_DAMAGE = {
    "a lost entry in the middle": (lambda log: (log / "00000002.json").unlink(), "is missing though later entries"),
    "an entry of another number": (lambda log: edit(log, 3, {"number": 4}), "is not a log entry"),
    "an alias moved by hand": (lambda log: edit(log, 2, {"previous": "9" * 64}), "does not follow"),
    "a version twice registered": (lambda log: edit(log, 3, {"version": entry(log, 1)["version"]}), "does not follow"),
    "a deed of a later time": (lambda log: edit(log, 3, {"action": "deprecate"}), "unknown to this checkout"),
    "a torn entry": (lambda log: rewrite(log, 3, b'{"number": 3, '), "is not a log entry"),
    "a path for a version": (lambda log: edit(log, 3, {"version": "../../x"}), "is not a log entry"),
}


def entry(log: Path, number: int) -> dict:
    return json.loads((log / f"{number:08d}.json").read_bytes())


def rewrite(log: Path, number: int, data: bytes) -> None:
    path = log / f"{number:08d}.json"
    path.chmod(0o644)
    path.write_bytes(data)


def edit(log: Path, number: int, changes: dict) -> None:
    rewrite(log, number, json.dumps(entry(log, number) | changes).encode())


@pytest.mark.parametrize("case", LOG_DAMAGE)
def test_a_log_that_was_tampered_with_is_refused(registry: Registry, case: str):
    damage, said = LOG_DAMAGE[case]
    release(registry, 0, wins=80)
    release(registry, 1, wins=50)
    damage(Path(registry.store.label) / "demo" / "log")
    with pytest.raises(RegistryError, match=said):
        Registry(registry.store, "demo").history()


def test_entries_that_vanish_under_a_reader_are_noticed(registry: Registry):
    release(registry, 0, wins=80)
    registry.history()
    (Path(registry.store.label) / "demo/log/00000002.json").unlink()
    with pytest.raises(RegistryError, match="lost its entries from 2 on"):
        registry.history()


def test_a_thousand_moves_are_read_in_a_blink(registry: Registry):
    digests = [release(registry, seed, wins=50).digest for seed in range(2)]
    log = Path(registry.store.label) / "demo" / "log"
    previous = None
    for number in range(3, 1003):  # written by hand: a thousand synced appends would take seconds
        version = digests[number % 2]
        record = {"number": number, "when": "2030-01-01T00:00:00+00:00", "by": "a@b", "action": "promote"}
        record |= {"version": version, "alias": "champion"} | ({"previous": previous} if previous else {})
        (log / f"{number:08d}.json").write_text(json.dumps(record))
        previous = version
    began = time.process_time()
    assert Registry(registry.store, "demo").find("champion") == previous
    assert time.process_time() - began < 1.0  # about 0.1 s
