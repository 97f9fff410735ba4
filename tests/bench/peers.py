"""The peers' environment: TRL and AgileRL at fixed versions, apart from the product's own.

run as: python -m tests.bench.peers install [FOLDER]     FOLDER is .peers by default, which git ignores
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.bench.campaign import PEERS

LIST = Path(__file__).with_name("peers.txt")
ALONE = "# without dependencies: "


def alone() -> list[str]:
    """Return the requirements that are installed without what they ask for."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(ALONE) for line in lines if line.startswith(ALONE)]


def install(folder: Path) -> None:
    """Build the environment in ``folder``, or bring it up to date, and check that both peers import."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(LIST)], check=True)
    subprocess.run([*pip, "--no-deps", *alone()], check=True)
    for module in ("arm_trl", "arm_agilerl"):
        subprocess.run([python, "-c", f"import tests.bench.{module}"], check=True, cwd=LIST.parents[2])


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("deed", choices=["install"])
    parser.add_argument("folder", nargs="?", type=Path, default=PEERS)
    install(parser.parse_args().folder.absolute())


if __name__ == "__main__":
    main()
