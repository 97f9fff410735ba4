"""The stages, one file each, and the rooms where their work is done.

`dvc repro` runs `python -m tasks.<stage>` with the first `python` of the shell: another one than the project's
environment is refused here, before any import fails.
"""

import sys
from importlib.util import find_spec

NEEDED = ("numpy", "ruamel", "torch", "transformers", "peft")


def _fault() -> str:
    """Say why this Python cannot run the stages; empty where it can."""
    if sys.version_info[:2] < (3, 11):  # noqa: UP036 what is not to be run with an older one says so
        return f"is Python {sys.version_info[0]}.{sys.version_info[1]}, older than 3.11"
    missing = [name for name in NEEDED if find_spec(name) is None]
    return f"has no {', '.join(missing)}" if missing else ""


_what = _fault() if sys.argv[0] == "-m" else ""  # run as `python -m tasks.…`, not imported by another program
if _what:
    _advice = "run `source .venv/bin/activate` first, or build the environment with `make env`"
    sys.exit(f"[tasks] error: this python ({sys.executable}) {_what} — {_advice}")
