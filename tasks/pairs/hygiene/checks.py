"""What `ingest` checks and measures beyond reading pairs, each thing only where params ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from tasks.pairs.hygiene.expectations import LEAKING, Expectations, check_expectations
from tasks.pairs.hygiene.languages import language_mix, load_identifier
from tasks.pairs.hygiene.personal_data import PersonalData


class Checks:
    """The expectations of the data, the look for personal data, and the count of languages.

    Attributes:
        personal_data: Looks at each pair; None for no look.
    """

    def __init__(
        self, expected: Expectations, personal_data: Literal["off", "report", "mask", "drop"], languages: bool
    ) -> None:
        """Load what is asked for.

        Raises:
            ConfigError: A library is not installed.
        """
        self.personal_data = None if personal_data == "off" else PersonalData(personal_data)
        self._expected = expected
        self._identifier = load_identifier() if languages else None

    def measure(
        self,
        metrics: Mapping[str, Any],
        folder: Path,
        personal_data: Mapping[str, int],
        leaking_share: Callable[[Path], float],
    ) -> dict[str, Any]:
        """Return further metrics of the pairs in ``folder``, `train.parquet` and `test.parquet`.

        Args:
            metrics: What ingest measured.
            folder: Holds the pairs.
            personal_data: How many pieces there were, by kind.
            leaking_share: Measures the share that `max_leaking_share` limits.

        Raises:
            DataError: The data miss an expectation.
        """
        measured: dict[str, Any] = {"personal_data": dict(personal_data)} if self.personal_data else {}
        if self._identifier:
            measured["languages"] = language_mix(folder, sum(metrics["prompts"].values()), self._identifier)
        if self._expected.max_leaking_share is not None:
            measured[LEAKING] = leaking_share(folder)
        check_expectations(self._expected, {**metrics, **measured})
        return measured
