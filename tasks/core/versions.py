"""The versions of Python and of the packages that results depend on: a name for work may hold them."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "dvc", "prefect", "evaluate", "numpy")


def versions() -> dict[str, str]:
    """Return the version of Python and of each of ``PACKAGES`` that is installed, by name."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
