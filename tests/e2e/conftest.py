"""A checkout of this very tree in a folder of its own, where whole runs may write what they like."""

from __future__ import annotations

import functools
import operator
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.demo.model.model import DemoModelConfig, train_demo_model
from tests.conftest import ROOT

GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]


class Checkout:
    """A copy of the repository's files as one commit, with the commands that a user would type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout with the test's own Python first on the path."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": ""}
        done = subprocess.run(
            words, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def dvc(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a dvc command."""
        return self.run(sys.executable, "-m", "dvc", *words, check=check)

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        """Run a make target with the test's own environment, taken as installed."""
        venv = Path(sys.executable).parent.parent
        stamp = venv / f".installed-with-{Path(os.environ.get('PYTHON', 'python3')).name}"
        return self.run("make", target, f"VENV={venv}", "-o", str(stamp))

    def set_params(self, **sections: dict[str, object]) -> None:
        """Change keys of params.yaml, keeping the rest; a dotted key reaches into a section, a mapping is replaced."""
        path = self.folder / "params.yaml"
        yaml = YAML()
        document = yaml.load(path.read_text(encoding="utf-8"))
        for section, keys in sections.items():
            for name, value in keys.items():
                *outer, last = name.split(".")
                functools.reduce(operator.getitem, outer, document[section])[last] = value
        with path.open("w", encoding="utf-8") as stream:
            yaml.dump(document, stream)

    def hasten_base(self, steps: int) -> None:
        """Train the demo's model for a few steps, once for all checkouts, and name it as the base."""
        folder = self.folder.parent / f"base-of-{steps}-steps"
        if not folder.is_dir():
            train_demo_model(DemoModelConfig(steps=steps), folder)
        self.set_params(base={"source": str(folder)})

    def commit(self, message: str = "change") -> None:
        """Commit everything that git does not ignore."""
        self.run(*GIT, "add", "-A")
        self.run(*GIT, "commit", "-qm", message, "--allow-empty")


@pytest.fixture(scope="session")
def new_checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkout]:
    """Make checkouts of the working tree; each is a repository of its own without a dvc.lock."""

    def make(name: str) -> Checkout:
        folder = tmp_path_factory.mktemp(name)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for file in listed.stdout.splitlines():
            if (ROOT / file).is_file() and file != "dvc.lock":
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, folder / file)
        checkout = Checkout(folder)
        checkout.run("git", "init", "-q", "-b", "main")
        checkout.commit("start")
        return checkout

    return make
