"""The versions of Python and of the packages that results depend on: a name for work may hold them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "dvc", "prefect", "evaluate", "numpy")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the version of Python and of each of ``packages`` that is installed, by name."""
    installed = {"python": platform.python_version()}
    for name in packages:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
