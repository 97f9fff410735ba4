"""Faults between any two requests: a proxy that cuts, delays, lies and truncates, and writers that die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.registry.gate.gate import GateConfig
from tasks.registry.log.evidence import Evidence
from tasks.registry.release.release import deprecate, promote, register, rollback
from tasks.registry.stores.s3 import S3Store
from tasks.registry.versions.manifest import WEIGHTS, Candidate
from tasks.registry.versions.registry import Registry
from tests.conftest import ROOT as CHECKOUT
from tests.fault_proxy import FAULTS, Proxy, between
from tests.registry.conftest import BUCKET, ROOT
from tests.registry.kill_points import candidate
from tests.registry.samples import sample, scores_of
from tests.s3_server import Server

GATE = GateConfig()
EVEN = scores_of(30, losses=30)
_STRIDE = 19


class Bench:
    """A bucket, the proxy before it, and a store on either side."""

    def __init__(self, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        self.server, self.proxy, self.monkeypatch = server, proxy, monkeypatch
        self.direct = self.opened(server.url)
        self.spoilt = self.opened(url)

    def opened(self, url: str) -> S3Store:
        self.monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = S3Store(ROOT)
        assert store._bucket.client  # made while the environment leads there
        return store

    def start(self, plan: Callable[[int], str | None]) -> None:
        """Empty the bucket, and let ``plan`` spoil the requests from now on."""
        for name in self.server.names(BUCKET):
            self.server.client.delete_object(Bucket=BUCKET, Key=name)
        self.spoilt._is_tested = False
        self.proxy.count, self.proxy.plan = 0, plan

    def state(self) -> tuple[list[str], dict[str, str], list[str]]:
        """What a reader without a proxy sees: every version that it shows is read to the last byte."""
        registry = Registry(self.direct, "demo")
        versions = [registry.check(digest).digest for digest in registry.digests()]
        history = registry.log.check()
        return versions, history.aliases(), [entry.event.action for entry in registry.log.entries()]


@pytest.fixture
def bench(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with between(server.url) as (proxy, url):
        yield Bench(server, proxy, monkeypatch, url)


def few(seed: int = 0) -> tuple[Candidate, Evidence]:
    """A version of few files, so that the requests are few."""
    whole, evidence = sample(seed, EVEN)
    left_out = ("README.md", "report.html", "train/metrics.json", "params.yaml")
    return Candidate(whole.identity, {n: c for n, c in whole.files.items() if n not in left_out}), evidence


def twice(action: Callable[[], object]) -> None:
    """Do something, and once more if it fails."""
    try:
        action()
    except PipelineError:
        action()


def life(store: S3Store) -> None:
    """Register two versions, promote both, roll back, deprecate the one that was left; a new reader for each."""
    first, second = few(0)[0].digest, few(1)[0].digest
    twice(lambda: register(Registry(store, "demo"), *few(0), "champion", GATE))
    twice(lambda: promote(Registry(store, "demo"), first, "champion", override="a start"))
    twice(lambda: register(Registry(store, "demo"), *few(1), "champion", GATE))
    twice(lambda: promote(Registry(store, "demo"), second, "champion", override="kinder"))
    twice(lambda: rollback(Registry(store, "demo"), "champion", left=second))
    twice(lambda: deprecate(Registry(store, "demo"), second, "it swears"))


@pytest.mark.parametrize(
    "rounds", [range(0, _STRIDE, 10), pytest.param(range(_STRIDE), marks=pytest.mark.e2e)], ids=str
)
def test_a_fault_at_any_request_leaves_the_state_as_if_there_was_none(bench: Bench, rounds: range):
    bench.start(lambda _: None)
    life(bench.spoilt)
    whole, total = bench.state(), bench.proxy.count
    assert whole[2] == ["register", "promote", "register", "promote", "rollback", "deprecate"]
    assert total > 100
    met: Counter[str] = Counter()
    # in each round every 19th request is spoilt, in the next one those after them, each time by the next fault
    for first in rounds:

        def plan(number: int, first: int = first) -> str | None:
            kind = FAULTS[(number // _STRIDE + first) % len(FAULTS)] if number % _STRIDE == first else None
            met[str(kind)] += 1
            return kind

        bench.start(plan)
        life(bench.spoilt)
        assert bench.state() == whole, first
    assert {*met} == {*FAULTS, "None"}


@pytest.mark.e2e
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if not fault.startswith("4")])
def test_a_server_that_fails_for_a_while_is_outlived(bench: Bench, fault: str):
    bench.start(lambda _: None)
    life(bench.spoilt)
    whole, total = bench.state(), bench.proxy.count
    for start in (3, total // 2):
        bench.start(lambda number, start=start: fault if start <= number < start + 6 else None)
        life(bench.spoilt)
        assert bench.state() == whole, start


def test_a_download_that_breaks_is_gone_on_with_and_verified(bench: Bench, tmp_path: Path):
    bench.start(lambda _: None)
    life(bench.direct)
    candidate, _ = few(0)
    for number, fault in enumerate(FAULTS):
        for start in range(number % 4, 20, 9):
            bench.proxy.count, bench.proxy.plan = 0, lambda n, f=fault, start=start: f if n == start else None
            target = tmp_path / f"{number}-{start}"
            twice(lambda target=target: Registry(bench.spoilt, "demo").pull(candidate.digest, target))
            assert (target / WEIGHTS).read_bytes() == candidate.files[WEIGHTS]


@pytest.mark.e2e
def test_a_writer_killed_at_random_requests_leaves_nothing_half_visible_and_a_second_run_completes(
    server: Server, tmp_path: Path
):
    command = [sys.executable, "-m", "tests.registry.kill_requests"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=170, env=env)
    assert done.returncode == 0, done.stderr
    deaths = [json.loads(line) for line in done.stdout.splitlines()]
    digest = candidate("first")[0].digest
    for number, death in enumerate(deaths):
        seen = death["seen"]
        assert seen["events"] in ([], ["register"], ["register", "promote"]), number
        assert seen["versions"] in ([], [digest]), number
        assert seen["versions"] or not seen["events"], number
        assert death["after"] == {
            "versions": [digest],
            "aliases": {"champion": digest},
            "events": ["register", "promote"],
        }, number
    assert len(deaths) == 50
    states = {(len(death["seen"]["versions"]), len(death["seen"]["events"])) for death in deaths}
    assert states == {(0, 0), (1, 0), (1, 1), (1, 2)}
