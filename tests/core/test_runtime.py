"""The section `runtime`: what it takes and what it refuses by name."""

from __future__ import annotations

import pytest

from tasks.core.errors import ConfigError
from tasks.core.params import build
from tasks.core.runtime import RuntimeConfig


def runtime(**values: object) -> RuntimeConfig:
    return build(RuntimeConfig, values, "runtime")


def test_auto_is_taken_where_the_machine_may_decide():
    found = runtime(tokens_per_micro_batch="auto", gradient_checkpointing="auto", compile="auto", device="auto")
    assert (found.tokens_per_micro_batch, found.gradient_checkpointing, found.compile) == ("auto", "auto", "auto")


def test_numbers_and_switches_are_taken_as_they_stand():
    found = runtime(tokens_per_micro_batch=4096, gradient_checkpointing=True, trackers=["mlflow", "wandb"])
    assert (found.tokens_per_micro_batch, found.gradient_checkpointing) == (4096, True)
    assert found.trackers == ("mlflow", "wandb")


def test_without_a_word_nothing_is_tracked_or_compiled():
    assert (runtime().trackers, runtime().compile, runtime().row_store) == ((), "off", "runs/rows")


@pytest.mark.parametrize(
    ("address", "host", "port"), [("", "", 0), ("127.0.0.1:9464", "127.0.0.1", 9464), ("[::1]:80", "::1", 80)]
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int):
    config = runtime(metrics_address=address)
    assert (config.metrics_host, config.metrics_port) == (host, port)


MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "no number": ({"tokens_per_micro_batch": "all"}, "is 'all' — write a whole number, or choose one of: auto"),
    "zero": (
        {"tokens_per_micro_batch": 0},
        "`runtime.tokens_per_micro_batch` is 0 — write 1 or more, for example",
    ),
    "no switch": ({"gradient_checkpointing": "yes"}, "is 'yes' — write true or false, or choose one of: auto"),
    "compile": ({"compile": True}, "`runtime.compile` is True — choose one of: auto, on, off"),
    "tracker": ({"trackers": ["tensorbord"]}, r"`runtime.trackers\[0\]` is 'tensorbord' — choose one of: tensorboard"),
    "no list": ({"trackers": "wandb"}, "`runtime.trackers` is 'wandb', not a list — write it as a YAML list"),
    "twice": ({"trackers": ["wandb", "wandb"]}, "`runtime.trackers` is .* — name each tracker once"),
    "row store": ({"row_store": False}, r"`runtime.row_store` is False — write text \(quote it\)"),
    "seconds": ({"checkpoint_every_s": 0}, "`runtime.checkpoint_every_s` is 0.0 — write a number above 0"),
    "steps": ({"log_every_steps": 0}, "`runtime.log_every_steps` is 0 — write 1 or more"),
    "port alone": (
        {"metrics_address": "9464"},
        "`runtime.metrics_address` is '9464' — write HOST:PORT, for",
    ),
    "high port": (
        {"metrics_address": "127.0.0.1:70000"},
        "`runtime.metrics_address` is '127.0.0.1:70000' — write",
    ),
    "no host": ({"metrics_address": ":9464"}, "`runtime.metrics_address` is ':9464' — write HOST:PORT"),
    "removed": (
        {"metrics_port": 9464},
        "`runtime.metrics_port` is no longer a key — write `metrics",
    ),
    "device": ({"device": "gpu"}, "`runtime.device` is 'gpu' — choose one of: auto, cpu"),
}


@pytest.mark.parametrize(("values", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_by_its_name(values: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        runtime(**values)
