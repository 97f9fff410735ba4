"""Register, promote, roll back: what the log says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import GateRefused, RegistryError
from tasks.registry.gate.gate import FAILED, INCONCLUSIVE, PASSED, GateConfig
from tasks.registry.release.release import Release, deprecate, promote, register, restore, rollback
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample, scores_of

GATE = GateConfig()


def release(registry: Registry, seed: int, wins: int, alias: str = "champion") -> Release:
    return register(registry, *sample(seed, scores_of(wins, losses=100 - wins)), alias, GATE)


def actions(registry: Registry) -> list[str]:
    return [entry.event.action for entry in registry.log.entries()]


def test_the_first_version_above_the_reference_becomes_champion(registry: Registry):
    done = release(registry, 0, wins=80)
    assert (done.serial, done.is_promoted, done.decision.outcome) == (1, True, PASSED)
    assert registry.find("champion") == registry.find(None) == registry.find("v1") == done.digest
    assert actions(registry) == ["register", "promote"]


def test_a_version_trained_on_swapped_pairs_is_recorded_and_never_promoted(registry: Registry):
    done = release(registry, 0, wins=10)
    assert (done.is_promoted, done.decision.outcome) == (False, FAILED)
    assert actions(registry) == ["register"]
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
    assert (worse.decision.outcome, worse.decision.champion) == (FAILED, first.digest)
    better = release(registry, 2, wins=98)
    assert (better.decision.outcome, better.is_promoted) == (PASSED, True)
    assert registry.find("champion") == better.digest


def test_a_decision_against_an_earlier_champion_promotes_nothing(registry: Registry):
    first, second = release(registry, 0, wins=70), release(registry, 1, wins=99)
    assert second.is_promoted
    with pytest.raises(GateRefused, match=f"against the champion {second.digest[:12]}"):
        promote(registry, first.digest, "champion")  # its own decision.json says `promote`, of another time


def test_a_person_may_overrule_the_gate_and_the_log_keeps_the_reason(registry: Registry):
    done = release(registry, 0, wins=50)
    assert promote(registry, done.digest, "champion", override="the judge is blind to tone") is True
    entry = registry.log.entries()[-1]
    assert (entry.event.authority, entry.event.reason) == ("override", "the judge is blind to tone")
    assert entry.event.decision is not None
    assert entry.event.decision["outcome"] in (FAILED, INCONCLUSIVE)
    assert promote(registry, done.digest, "champion", override="again") is False
    assert len(registry.log.entries()) == 2


def test_a_reason_stands_in_the_log_and_allows_nothing(registry: Registry):
    good, weak = release(registry, 0, wins=99), release(registry, 1, wins=50)
    assert promote(registry, good.digest, "staging", reason="approved in run 7") is True
    event = registry.log.entries()[-1].event
    assert (event.authority, event.reason) == ("gate", "approved in run 7")
    with pytest.raises(GateRefused):
        promote(registry, weak.digest, "staging", reason="approved in run 8")


def test_rolling_back_twice_goes_two_versions_back_and_then_no_further(registry: Registry):
    first, second, third = (release(registry, seed, wins=50) for seed in range(3))
    for done in (first, second, third):
        promote(registry, done.digest, "champion", override="in turn")
    assert rollback(registry, "champion") == (third.digest, second.digest)
    assert rollback(registry, "champion", "worse in use") == (second.digest, first.digest)
    assert registry.find("champion") == first.digest
    with pytest.raises(RegistryError, match="never pointed to another version"):
        rollback(registry, "champion")
    assert registry.log.entries()[-1].event.reason == "worse in use"


def test_a_rolled_back_version_is_not_promoted_again_by_registering_it_again(registry: Registry):
    release(registry, 0, wins=60)
    second = release(registry, 1, wins=98)
    rollback(registry, "champion", "it swears")
    before = registry.log.entries()
    again = release(registry, 1, wins=98)
    assert registry.log.entries() == before
    assert registry.find("champion") != again.digest == second.digest


def test_a_champion_that_changes_between_decision_and_promotion_is_weighed_anew(registry: Registry):
    base = release(registry, 0, wins=50)
    promote(registry, base.digest, "champion", override="a start")
    rival = release(registry, 1, wins=50)

    class Overtaken(type(registry.store)):  # another process promotes the rival once ours is registered
        def put(self, key, content, on_bytes=None):
            is_ours = key.endswith("log/00000004.json")
            created = super().put(key, content)
            if is_ours and created:
                strong = Registry(registry.store, "demo")
                promote(strong, rival.digest, "champion", override="meanwhile")
            return created

    late = Registry(Overtaken(Path(registry.store.label)), "demo")
    done = register(late, *sample(2, scores_of(51, losses=49)), "champion", GATE)
    assert done.decision.outcome != PASSED
    done = release(late, 3, wins=99)
    assert (done.is_promoted, done.decision.champion) == (True, rival.digest)


def test_a_promotion_that_was_decided_but_overtaken_is_decided_against_the_new_champion(registry: Registry):
    strong = release(registry, 0, wins=97)
    rollback_target = release(registry, 1, wins=50)
    promote(registry, rollback_target.digest, "champion", override="to have a weak champion")

    class Overtaken(type(registry.store)):
        def put(self, key, content, on_bytes=None):
            created = super().put(key, content)
            if created and b'"action": "register"' in (content if isinstance(content, bytes) else b""):
                rollback(Registry(registry.store, "demo"), "champion")  # back to the strong one
            return created

    late = Registry(Overtaken(Path(registry.store.label)), "demo")
    done = register(late, *sample(2, scores_of(90, losses=10)), "champion", GATE)
    assert done.decision.champion == strong.digest
    assert (done.is_promoted, done.decision.outcome) == (False, FAILED)
    logged = late.history().registered[done.digest].event.decision
    assert logged is not None
    assert (logged["outcome"], logged["champion"]) == (PASSED, rollback_target.digest)


def test_another_alias_has_a_history_of_its_own(registry: Registry):
    done = release(registry, 0, wins=80, alias="staging")
    assert registry.history().aliases() == {"staging": done.digest}
    promote(registry, done.digest, "champion")
    assert registry.history().aliases() == {"champion": done.digest, "staging": done.digest}


def test_a_deprecated_version_is_not_promoted_until_that_is_taken_back(registry: Registry):
    first, second = release(registry, 0, wins=60), release(registry, 1, wins=50)
    with pytest.raises(RegistryError, match=r"`demo@champion` points to .* — roll back, or promote another"):
        deprecate(registry, first.digest, "it leaks prompts")
    assert deprecate(registry, second.digest, "it swears") is True
    assert deprecate(registry, second.digest, "it swears") is False
    with pytest.raises(RegistryError, match="is deprecated: it swears — take that back first"):
        promote(registry, second.digest, "champion", override="all the same")
    assert restore(registry, second.digest) is True
    assert restore(registry, second.digest) is False
    assert promote(registry, second.digest, "champion", override="mended") is True
    assert actions(registry)[-3:] == ["deprecate", "restore", "promote"]


def test_a_rollback_from_a_version_can_be_repeated_and_is_done_once(registry: Registry):
    first, second = (release(registry, seed, wins=50) for seed in range(2))
    for done in (first, second):
        promote(registry, done.digest, "champion", override="in turn")
    for _ in range(2):
        assert rollback(registry, "champion", left=second.digest) == (second.digest, first.digest)
    assert actions(registry).count("rollback") == 1
    promote(registry, second.digest, "champion", override="again")
    promote(registry, first.digest, "champion", override="and back")
    with pytest.raises(RegistryError, match=f"points to {first.digest[:12]}, not to {second.digest[:12]}"):
        rollback(registry, "champion", left=second.digest)
