"""Training's numbers for Prometheus: gauges at /metrics on rank 0, when `runtime.metrics_address` names one.

They change when the curves reach the host, every `runtime.log_every_steps` steps and at each evaluation: no step waits
for them. Names follow Prometheus' conventions (base units, `_ratio` for 0 to 1); the labels are the stage and the run.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Mapping
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.telemetry import log

PACKAGE = "prometheus_client"
LABELS = ("stage", "run")
# The name of a value (part of the curves, name in it): the gauge's name after `dpo_train_`, and its help text.
GAUGES: Mapping[str, tuple[str, str]] = {
    "train/loss": ("loss", "Objective of the newest optimizer step, its NLL term included"),
    "train/accuracy": ("accuracy_ratio", "Share of that step's pairs whose chosen answer has the higher reward"),
    "train/margin": ("reward_margin", "Mean reward margin of that step's pairs"),
    "train/grad_norm": ("gradient_norm", "2-norm of that step's gradient before it was clipped"),
    "train/learning_rate": ("learning_rate", "AdamW's step size in that step"),
    "eval/loss": ("held_out_loss", "The same of the held-out pairs at the newest evaluation"),
    "eval/accuracy": ("held_out_accuracy_ratio", "Share of held-out pairs whose chosen answer has the higher reward"),
    "eval/margin": ("held_out_reward_margin", "Mean reward margin of the held-out pairs"),
    "speed/pairs_per_s": ("pairs_per_second", "Pairs trained on a second, over all ranks, since the last update"),
    "speed/tokens_per_s": ("tokens_per_second", "Their tokens a second, each prompt once"),
    "speed/utilisation": ("utilisation_ratio", "Operations that the model needs over what the device can do"),
    "speed/peak_bytes": ("memory_peak_bytes", "Most memory that rank 0 has held: on CUDA in tensors, else resident"),
    "plan/steps": ("planned_steps", "Optimizer steps of the whole training"),
}
_log = log.get_logger(__name__)


class Metrics:
    """An open /metrics page; it has the methods of a tracker.

    Args:
        host: The address that it listens at.
        port: Its port; 0 takes any free one.
        run: The label `run`: the flow's run, or the name of the training.

    Raises:
        OSError: The port is taken, or the address is not this machine's.
    """

    def __init__(self, host: str, port: int, run: str) -> None:
        client: Any = importlib.import_module(PACKAGE)
        self._client, self._registry = client, client.CollectorRegistry()
        self._labels, self._gauges = {"stage": "train", "run": run}, dict[str, Any]()
        self._server, self._thread = client.start_http_server(port, addr=host, registry=self._registry)
        self.port = int(self._server.server_port)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Set the gauges of ``values``, and those of the step and the time; the others keep their values."""
        for name, value in values.items():
            if name in GAUGES:
                self._set(*GAUGES[name], value)
        self._set("step", "Optimizer steps done", step)
        self._set("updated_timestamp_seconds", "When a gauge was last set, in seconds since 1970", time.time())

    def finish(self) -> None:
        """Close the page and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _set(self, name: str, about: str, value: float) -> None:
        """Set a gauge; it is created with its first value, so what was not measured has none."""
        if name not in self._gauges:
            gauge = self._client.Gauge(f"dpo_train_{name}", about, LABELS, registry=self._registry)
            self._gauges[name] = gauge.labels(**self._labels)
        self._gauges[name].set(value)


def open_metrics(runtime: RuntimeConfig, run_name: str, is_main: bool) -> Metrics | None:
    """Serve /metrics where `runtime.metrics_address` says; return None where it names none, and off rank 0.

    A port that is taken is a warning, and nothing is served: training goes on without gauges.

    Args:
        runtime: Names address and port.
        run_name: The label `run` where no flow has given an id.
        is_main: Whether this process is rank 0.

    Raises:
        ConfigError: An address is named, and the package that serves it is not installed.
    """
    if not runtime.metrics_port:
        return None
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(
            f"`runtime.metrics_address` is {runtime.metrics_address!r}, and {PACKAGE} is not installed",
            'run `pip install prometheus-client`, or set it to ""',
        )
    if not is_main:
        return None

    where = runtime.metrics_address
    try:
        metrics = Metrics(runtime.metrics_host, runtime.metrics_port, log.run_id() or run_name)
    except OSError as error:
        cause = error.strerror or error
        _log.warning("no metrics are served: %s cannot be opened (%s); see `runtime.metrics_address`", where, cause)
        return None
    _log.info("metrics are served at http://%s/metrics", where)
    return metrics
