"""The gate against arithmetic done by hand."""

from __future__ import annotations

import math

import pytest

from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.params import build
from tasks.estimation.estimates import win_rate
from tasks.registry.gate.gate import (
    FAILED,
    INCONCLUSIVE,
    PASSED,
    Decision,
    GateConfig,
    decide,
)
from tasks.registry.log.entries import REGISTER, Event, LogEntry
from tasks.registry.log.evidence import DUEL, parse
from tasks.registry.log.history import History
from tests.registry.samples import BASE, evidence, evidence_files, scores_of

GATE = GateConfig(alpha=0.05, margin=0.02, tolerance=0.02, min_shared_prompts=50)
CHAMPION_DIGEST, CANDIDATE_DIGEST = "a" * 64, "c" * 64


PAPERS = {"judge_agreement": {"value": 0.9, "limit": 0.5, "passed": True}}
BAD_GUARD = {"empty_share": {"value": 0.4, "limit": 0.05, "passed": False}} | PAPERS
NO_PAPERS = {"empty_share": {"value": 0.0, "limit": 0.05, "passed": True}}
BAD_JUDGE = {"judge_agreement": {"value": 0.36, "limit": 0.5, "passed": False}}
FIRST_RUNS = {
    # 80 of 100: bound 0.7121 at alpha 0.0304
    "a clear win": (scores_of(80, losses=20), {}, 1, PASSED, "clears 0.5200"),
    # 60 of 100: bound 0.5004, under 0.52; the rate is above
    "a win within the noise": (scores_of(60, losses=40), {}, 1, INCONCLUSIVE, "does not clear 0.5200, though"),
    "a narrow loss": (scores_of(50, losses=50), {}, 1, FAILED, "nor does the rate"),
    "chosen and rejected swapped": (scores_of(10, losses=90), {}, 1, FAILED, "0.1000 on 100 prompts"),
    "a failed guard": (
        scores_of(80, losses=20),
        {"guards": BAD_GUARD},
        1,
        FAILED,
        "`empty_share` failed: value 0.4",
    ),
    "a judge without papers": (scores_of(80, losses=20), {"guards": NO_PAPERS}, 1, FAILED, "showed no papers"),
    "a judge that disagrees": (scores_of(80, losses=20), {"guards": BAD_JUDGE}, 1, FAILED, "`judge_agreement` failed"),
    "no guard at all": (scores_of(80, losses=20), {"guards": {}}, 1, FAILED, "no guard"),
    "too many missing": (scores_of(90, losses=5, missing=5), {}, 1, INCONCLUSIVE, "coverage 0.9500 is below 0.9800"),
    # 51 of the 98 known are won, 0.5204; with the missing ones as losses 0.51, under 0.52
    "missing is lost": (scores_of(51, losses=47, missing=2), {}, 1, FAILED, "0.5100 on 100 prompts"),
    "a lower coverage than counted": (scores_of(80, losses=20), {"coverage": 0.9}, 1, INCONCLUSIVE, "0.9000"),
    # 65 of 100: at look 1 the bound is 0.5515, at look 50 (alpha 0.0000122) 0.4331
    "the first look": (scores_of(65, losses=35), {}, 1, PASSED, "look 1"),
    "the fiftieth look": (scores_of(65, losses=35), {}, 50, INCONCLUSIVE, "look 50"),
}


@pytest.mark.parametrize("case", FIRST_RUNS)
def test_a_first_version_is_held_against_the_reference(case: str):
    scores, changes, attempt, outcome, said = FIRST_RUNS[case]
    decision = decide(evidence(scores, **changes), None, attempt, GATE)
    assert decision.outcome == outcome
    assert any(said in reason for reason in decision.reasons), decision.reasons
    assert decision.champion is None


def test_the_numbers_of_a_first_promotion_are_those_worked_out_by_hand():
    # with a rate of 0.712133, 80 wins or more of 100 have the probability 0.0303964, 0.05 · 6/π²; with 0.7228, 0.05
    numbers = decide(evidence(scores_of(80, losses=20)), None, 1, GATE).numbers
    for bound, level in ((0.712133, 0.0303964), (0.722800, 0.05)):
        tail = math.fsum(math.comb(100, won) * bound**won * (1 - bound) ** (100 - won) for won in range(80, 101))
        assert tail == pytest.approx(level, abs=1e-6)
    assert numbers["opponent_lower_bound"] == pytest.approx(0.712133, abs=1e-6)
    assert numbers["lower_bound"] == pytest.approx(0.722800, abs=1e-6)  # at 0.05, as every table shows it
    assert (numbers["threshold"], numbers["win_rate"], numbers["prompts"]) == (0.52, 0.8, 100)


def paired(better: int, equal: int, worse: int) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Credits of candidate and champion: on `better` prompts 1 to 0, on `worse` 0 to 1."""
    candidate_scores = [1.0] * better + [0.5] * equal + [0.0] * worse
    champion_scores = [0.0] * better + [0.5] * equal + [1.0] * worse
    names = [f"p{number:03d}" for number in range(len(candidate_scores))]
    return dict(zip(names, candidate_scores, strict=True)), dict(zip(names, champion_scores, strict=True))


CHALLENGES = {
    # mean gain 0.4: as a win rate 0.7 over 100, threshold 0.51
    "better on shared prompts": (paired(45, 50, 5), PASSED, "clears 0.5100"),
    # mean gain 0.05: 0.525
    "better within the noise": (paired(25, 55, 20), INCONCLUSIVE, "does not clear 0.5100, though"),
    "worse on shared prompts": (paired(5, 50, 45), FAILED, "nor does the rate"),
    "the very same answers": (paired(0, 100, 0), FAILED, "0.5000 on 100 prompts"),
}


@pytest.mark.parametrize("case", CHALLENGES)
def test_a_challenger_is_held_against_the_champion_on_shared_prompts(case: str):
    (candidate_scores, champion_scores), outcome, said = CHALLENGES[case]
    decision = decide(evidence(candidate_scores, CANDIDATE_DIGEST), evidence(champion_scores, CHAMPION_DIGEST), 1, GATE)
    assert decision.outcome == outcome
    assert said in decision.reasons[0]
    assert decision.champion == CHAMPION_DIGEST


def test_too_few_shared_prompts_are_inconclusive():
    candidate_scores = scores_of(90, losses=10)
    champion_scores = {f"q{prompt}" if int(prompt[1:]) >= 49 else prompt: 0.0 for prompt in candidate_scores}
    decision = decide(evidence(candidate_scores, CANDIDATE_DIGEST), evidence(champion_scores, CHAMPION_DIGEST), 1, GATE)
    assert decision.outcome == INCONCLUSIVE
    assert "49 shared prompts, 50 are needed" in decision.reasons[0]


def test_a_prompt_that_the_champion_has_no_verdict_on_is_not_counted_as_its_loss():
    candidate_scores, champion_scores = paired(0, 100, 0)
    champion_scores |= {f"p{number:03d}": None for number in range(40)}
    decision = decide(evidence(candidate_scores, CANDIDATE_DIGEST), evidence(champion_scores, CHAMPION_DIGEST), 1, GATE)
    assert decision.numbers["compared_prompts"] == 60
    assert decision.outcome == FAILED


@pytest.mark.parametrize("changes", [{"base": "f" * 64}, {"judge": "another judge"}])
def test_credits_of_another_reference_or_judge_are_not_compared(changes: dict[str, str]):
    candidate_scores, champion_scores = paired(45, 50, 5)
    champion = evidence(champion_scores, CHAMPION_DIGEST, judge="the judge")
    candidate = evidence(candidate_scores, CANDIDATE_DIGEST, **({"judge": "the judge"} | changes))
    decision = decide(candidate, champion, 1, GATE)
    assert decision.outcome == INCONCLUSIVE
    assert "judge them head to head" in decision.reasons[0]


def test_a_slow_slide_below_the_champion_is_stopped_by_the_fixed_reference():
    # The duel is won, yet against the reference 60 of 100 stand where the champion had 90 of 100.
    duel = {"champion": {"digest": CHAMPION_DIGEST}}
    candidate = with_duel(scores_of(60, losses=40), scores_of(80, losses=20), duel)
    decision = decide(candidate, evidence(scores_of(90, losses=10), CHAMPION_DIGEST), 1, GATE)
    assert decision.outcome == FAILED
    assert "clears" in decision.reasons[0]
    assert "is below the champion's" in decision.reasons[1]


def test_a_slide_is_refused_only_where_the_paired_difference_shows_it():
    duel = {"champion": {"digest": CHAMPION_DIGEST}}

    def outcome(scores, champions) -> str:
        return decide(
            with_duel(scores, scores_of(140, losses=60), duel), evidence(champions, CHAMPION_DIGEST), 1, GATE
        ).outcome

    # 5 points below the champion on 200 prompts, which noise explains: two bounds apart by more than the tolerance
    names = [f"p{number:03d}" for number in range(200)]
    champions = dict.fromkeys(names, 1.0) | dict.fromkeys(names[:80], 0.0)  # 120 wins
    noisy = dict.fromkeys(names, 0.0) | dict.fromkeys(names[40:150], 1.0)  # 110 wins, on other prompts
    assert outcome(noisy, champions) == PASSED
    steady = dict(champions) | dict.fromkeys(names[80:90], 0.0)  # the same 120 but 10: lost on ten, won on none
    assert outcome(steady, champions) == FAILED


def test_few_shared_prompts_against_the_base_leave_the_floor_of_one_half():
    duel = {"champion": {"digest": CHAMPION_DIGEST}}
    champion = evidence({f"q{number}": 1.0 for number in range(90)}, CHAMPION_DIGEST)
    for wins, outcome in ((80, PASSED), (55, INCONCLUSIVE)):
        decision = decide(
            with_duel(scores_of(wins, losses=100 - wins), scores_of(80, losses=20), duel), champion, 1, GATE
        )
        assert decision.outcome == outcome
        assert "they share 0 prompts, 50 are needed" in decision.reasons[1]


def test_twelve_wins_and_no_loss_among_fifty_prompts_are_promoted():
    assert decide(evidence(scores_of(12, ties=38)), None, 1, GateConfig()).outcome == PASSED


@pytest.mark.parametrize("count", [4, 49])
def test_few_prompts_promote_no_first_version_however_many_are_won(count: int):
    decision = decide(evidence(scores_of(count)), None, 1, GateConfig())
    assert decision.outcome == INCONCLUSIVE
    assert f"{count} prompts, 50 are needed" in decision.reasons[0]
    assert decide(evidence(scores_of(4)), None, 1, GateConfig(min_prompts=1)).outcome == INCONCLUSIVE  # p = 0.0625


def test_an_inconclusive_decision_tells_its_power_and_what_would_help():
    decision = decide(evidence(scores_of(112, losses=88)), None, 1, GateConfig())
    assert decision.outcome == INCONCLUSIVE
    # rate 0.56; at look 2 z = 2.4293: (2.4293 + 0.8416)² · 0.2464 · 200/199 / 0.0036 = 736.0
    assert "rates from 0.5967 on" in decision.reasons[0]
    assert decision.numbers["prompts_needed"] == pytest.approx(736, abs=1)
    assert "about 736 prompts" in decision.reasons[0] or "about 737 prompts" in decision.reasons[0]
    assert decision.looks() == "look 1 at these prompts, none spent before, at alpha 0.03040 of 0.05"


def test_the_bound_that_is_shown_is_that_of_the_evidence_s_own_metrics():
    scores = scores_of(60, ties=40, losses=30, missing=2)
    rate = win_rate([float("nan") if score is None else score for score in scores.values()])
    numbers = decide(evidence(scores), None, 3, GATE).numbers
    assert (numbers["win_rate"], numbers["lower_bound"]) == (round(rate.win_rate, 6), round(rate.lower_bound, 6))


def test_a_failed_guard_is_said_first():
    decision = decide(evidence(scores_of(80, losses=20), guards=BAD_GUARD), None, 1, GATE)
    assert decision.reasons[0].startswith("not to be believed: guard `empty_share` failed")


def test_a_successor_of_the_champion_is_promoted_where_it_beats_it_and_holds_against_the_base():
    # trained on from the champion: 70 % against it, and against the bare base as good as the champion was
    duel = {"champion": {"digest": CHAMPION_DIGEST}}
    candidate = with_duel(scores_of(182, losses=18), scores_of(140, losses=60), duel)
    assert decide(candidate, evidence(scores_of(180, losses=20), CHAMPION_DIGEST), 1, GATE).outcome == PASSED


def test_bounds_of_two_judges_are_not_compared_though_the_two_versions_met():
    duel = {"champion": {"digest": CHAMPION_DIGEST}, "judge": "the new judge"}
    champion = evidence(scores_of(90, losses=10), CHAMPION_DIGEST, judge="the old judge")
    for wins, outcome in ((80, PASSED), (55, INCONCLUSIVE), (40, FAILED)):
        candidate = with_duel(scores_of(wins, losses=100 - wins), scores_of(80, losses=20), duel)
        decision = decide(candidate, champion, 1, GATE)
        assert decision.outcome == outcome
        assert "the champion's cannot be compared: its judge was the old judg" in decision.reasons[1]


def with_duel(scores, duel, changes):
    files = evidence_files(scores, **changes) | {DUEL: evidence_files(duel)["scores.jsonl"]}
    return parse(files, "evidence", BASE, CANDIDATE_DIGEST)


def test_head_to_head_credits_decide_where_the_two_have_met():
    candidate_scores, champion_scores = paired(5, 50, 45)  # the paired differences alone would say `keep`
    champion = evidence(champion_scores, CHAMPION_DIGEST)
    met = with_duel(candidate_scores, scores_of(80, losses=20), {"champion": {"digest": CHAMPION_DIGEST}})
    decision = decide(met, champion, 1, GateConfig(tolerance=1.0))
    assert decision.outcome == PASSED
    assert decision.numbers["opponent_win_rate"] == 0.8


def test_head_to_head_credits_against_another_version_are_ignored():
    candidate_scores, champion_scores = paired(5, 50, 45)
    met = with_duel(candidate_scores, scores_of(80, losses=20), {"champion": {"digest": "9" * 64}})
    decision = decide(met, evidence(champion_scores, CHAMPION_DIGEST), 1, GateConfig(tolerance=1.0))
    assert "paired difference" in decision.reasons[0]
    assert decision.outcome == FAILED


def test_a_decision_survives_its_json():
    decision = decide(evidence(scores_of(80, losses=20)), None, 2, GATE)
    assert Decision.from_json(decision.as_json()) == decision


BROKEN = {
    "no coverage": ({"coverage": ...}, "metrics.json has no key `coverage`"),
    "no win rate": ({"win_rate": ...}, "metrics.json has no key `win_rate`"),
    "no guards": ({"guards": ...}, "metrics.json has no key `guards`"),
    "a guard without verdict": ({"guards": {"length": {"value": 1}}}, "`guards.length.passed`"),
    "a win rate of another run": ({"win_rate": 0.95}, "says win_rate 0.9500, but scores.jsonl beside it gives 0.8000"),
    "a win rate that is text": ({"win_rate": "0.8"}, "`win_rate` is '0.8', not a number"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_evidence_that_lacks_or_contradicts_something_is_refused_by_file_and_key(case: str):
    changes, said = BROKEN[case]
    with pytest.raises(ArtifactError, match=r"evidence/metrics\.json") as caught:
        evidence(scores_of(80, losses=20), **changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b'{"prompt_id": "a"}\n', "scores.jsonl:1 has no key `score`"),
        (b'{"prompt_id": "a", "score": 1}\n{"score": 1}\n', "scores.jsonl:2 has no key `prompt_id`"),
        (b'{"prompt_id": "a", "score": 1.5}\n', "outside 0 to 1"),
        (b'{"prompt_id": "a", "score": 1}\n{"prompt_id": "a", "score": 0}\n', "second line of prompt a"),
        (b'{"prompt_id": "a", "score": NaN}\n', "not a number"),
        (b'{"prompt_id": "a", "sco', "scores.jsonl:1 is not valid JSON"),
        (b"", "holds no prompt"),
    ],
)
def test_a_broken_line_of_scores_is_refused_by_its_number(lines: bytes, said: str):
    files = evidence_files(scores_of(1)) | {"scores.jsonl": lines}
    with pytest.raises(ArtifactError) as caught:
        parse(files, "evidence", BASE, CANDIDATE_DIGEST)
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["alpha", "margin", "tolerance", "min_shared_prompts"])
def test_a_condition_out_of_range_is_refused_by_its_key(key: str):
    with pytest.raises(ConfigError, match=rf"`register\.gate\.{key}` is -1"):
        build(GateConfig, {key: -1}, "register.gate")


def test_a_look_at_much_the_same_prompts_is_another_look():
    def judged(first: int, count: int, version: str):
        return evidence({f"p{number:05d}": 1.0 for number in range(first, first + count)}, version)

    def looks(*earlier) -> int:
        events = [Event(REGISTER, e.version, prompt_set=e.prompt_set, prompt_sample=e.prompt_sample) for e in earlier]
        entries = {event.version: LogEntry(n, event, "", "", "", "") for n, event in enumerate(events, start=1)}
        return History(registered=entries).attempt(judged(0, 200, CANDIDATE_DIGEST))

    assert looks() == 1
    assert looks(judged(0, 200, "1" * 64)) == 2
    assert looks(judged(10, 200, "1" * 64), judged(0, 199, "2" * 64), judged(0, 230, "3" * 64)) == 4
    assert looks(judged(170, 200, "1" * 64)) == looks(judged(900, 9, "2" * 64)) == 1


@pytest.mark.parametrize(
    ("first", "count", "look"),
    [
        (0, 70, 2),  # 70 of the same 200
        (150, 20, 2),
        (0, 4000, 2),  # the 200 were a part of these
        (50, 1000, 2),  # three quarters of the 200
        (190, 200, 1),
        (190, 30, 1),  # 10 of these 30
        (3000, 5000, 1),
    ],
)
@pytest.mark.parametrize("kept", [64, 256])
def test_a_part_of_the_same_prompts_is_the_same_look(first: int, count: int, look: int, kept: int):
    earlier = evidence({f"p{number:05d}": 1.0 for number in range(first, first + count)}, "1" * 64)
    candidate = evidence({f"p{number:05d}": 1.0 for number in range(200)}, CANDIDATE_DIGEST)
    event = Event(REGISTER, "1" * 64, prompt_set=earlier.prompt_set, prompt_sample=earlier.prompt_sample[:kept])
    history = History(registered={"1" * 64: LogEntry(1, event, "", "", "", "")})
    assert history.attempt(candidate) == look


def test_a_look_of_before_samples_were_kept_counts_where_the_prompts_are_the_same():
    same = evidence(scores_of(80, losses=20), CANDIDATE_DIGEST)
    old = Event(REGISTER, CHAMPION_DIGEST, prompt_set=same.prompt_set)
    history = History(registered={CHAMPION_DIGEST: LogEntry(1, old, "", "", "", "")})
    assert history.attempt(same) == 2
    assert history.attempt(evidence(scores_of(80, losses=21), CANDIDATE_DIGEST)) == 1
