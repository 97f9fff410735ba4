"""Prometheus: what a scrape finds during and after a training, and that no gauge stands in training's way."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from accelerate import Accelerator
from prometheus_client.parser import text_string_to_metric_families

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.telemetry.prometheus import Metrics, open_metrics
from tasks.dpo.telemetry.trackers import Trackers, open_trackers
from tasks.dpo.training.trainer import train
from tests.dpo import tiny
from tests.ports import free_ports

LABELS = {"stage": "train", "run": "run-1"}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    found = Metrics("127.0.0.1", 0, "run-1")
    yield found
    found.finish()


def scrape(port: int) -> dict[str, float]:
    """The samples of /metrics by name; each has the same labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(sample.labels == LABELS for sample in samples)
    return {sample.name.removeprefix("dpo_train_"): sample.value for sample in samples}


def opened(port: int, is_main: bool = True) -> Metrics | None:
    runtime = RuntimeConfig(device="cpu", metrics_address=f"127.0.0.1:{port}" if port else "")
    return open_metrics(runtime, "run-1", is_main)


def test_a_row_of_a_curve_sets_its_gauges_and_no_other(metrics: Metrics) -> None:
    metrics.log({"train/loss": 0.5, "train/logps_chosen": -9.0}, 3)
    metrics.log({"eval/loss": 0.625}, 4)
    found = scrape(metrics.port)
    assert found.pop("updated_timestamp_seconds") > 1.7e9
    assert found == {"loss": 0.5, "held_out_loss": 0.625, "step": 4.0}


class Watched(Metrics):
    """One that is scraped after each row, as a server of Prometheus may at any time."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 0, "run-1")
        self.seen: list[dict[str, float]] = []

    def log(self, values: object, step: int) -> None:
        super().log(values, step)  # type: ignore[arg-type]
        self.seen.append(scrape(self.port))


def test_a_scrape_during_a_training_tells_the_numbers_of_its_curves() -> None:
    model, watched = tiny.policy(), Watched()
    scored = [reference_logps(model, part) for part in (tiny.pairs(8), tiny.pairs(4, 99))]
    runtime = tiny.budget(512, log_every_steps=2)
    config = tiny.config(pairs_per_step=2, evaluations=1, learning_rate=1e-3)
    trackers = Trackers({"prometheus": watched})
    result = train(model, *scored, config, runtime, trackers=trackers)
    last = scrape(watched.port)
    trackers.close()
    assert {found["step"] for found in watched.seen} == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert [found["loss"] for found in watched.seen if found["step"] == 1.0] == [result.steps[0]["loss"]]
    assert (last["step"], last["planned_steps"]) == (4.0, 4.0)
    assert last["loss"] == result.steps[-1]["loss"]
    assert last["accuracy_ratio"] == result.steps[-1]["accuracy"]
    assert last["learning_rate"] == result.steps[-1]["learning_rate"]
    assert last["held_out_loss"] == result.after["loss"]
    assert min(last[name] for name in ("pairs_per_second", "tokens_per_second", "utilisation_ratio")) > 0
    assert last["memory_peak_bytes"] > 10_000_000


def test_the_page_ends_with_the_training() -> None:
    found = Metrics("127.0.0.1", 0, "run-1")
    assert serving() == 1
    trackers = Trackers({"prometheus": found})
    scrape(found.port)
    trackers.close()
    with pytest.raises(URLError):
        scrape(found.port)
    assert serving() == 0


def serving() -> int:
    return len([thread for thread in threading.enumerate() if "serve_forever" in thread.name])


def test_a_port_opens_it_beside_the_trackers_on_loopback_alone(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    runtime = RuntimeConfig(device="cpu", metrics_address=f"127.0.0.1:{port}")
    trackers = open_trackers(Accelerator(cpu=True), runtime, "run-1", {}, tmp_path)
    trackers.log({"step": 1.0, "loss": 0.25}, 1)
    assert scrape(port)["loss"] == 0.25
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # it would be taken if all addresses were
    trackers.close()


def test_the_run_of_the_flow_is_the_label_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPO_RUN", "0b1c")
    (port,) = free_ports(1)
    found = opened(port)
    assert found
    found.log({"train/loss": 0.5}, 1)
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert 'dpo_train_loss{run="0b1c",stage="train"} 0.5' in answer.read().decode()
    found.finish()


def test_a_port_that_is_taken_is_told_and_training_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, caplog.at_level(logging.WARNING, "tasks"):
        port = other.getsockname()[1]
        assert opened(port) is None
    (record,) = caplog.records
    told = f"no metrics are served: 127.0.0.1:{port} cannot be opened (Address already in use)"
    assert record.getMessage() == f"{told}; see `runtime.metrics_address`"


def test_without_a_port_and_off_rank_0_nothing_is_opened() -> None:
    (port,) = free_ports(1)
    assert opened(0) is None
    assert opened(port, is_main=False) is None
    with pytest.raises(URLError):
        scrape(port)


def test_without_the_package_a_port_is_refused_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(str(importlib.util.find_spec("prometheus_client").origin)).parents[1]  # type: ignore[union-attr]
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place) != here and place != os.curdir])
    monkeypatch.delitem(sys.modules, "prometheus_client")
    importlib.invalidate_caches()
    assert opened(0) is None, "nobody needs it where no port is named"
    with pytest.raises(ConfigError, match=r":9464', and .* not installed — run `pip install prometheus-client`, or"):
        opened(9464)
