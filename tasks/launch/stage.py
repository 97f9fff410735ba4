"""The door of a stage: binds params, keeps the receipt, and turns an expected error into one line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tasks.core import paths, ranks
from tasks.core.errors import ConfigError, PipelineError
from tasks.core.files import digest_of, explain_os_error
from tasks.core.locks import hold_lock
from tasks.core.params import load_section
from tasks.telemetry import log, receipts

T = TypeVar("T")


@contextlib.contextmanager
def door(stage: str, owner: type[T] | Callable[[Path], T]) -> Iterator[T]:
    """Open a stage: yield its params; on the way out, write its receipt.

    A second process that opens a stage of the same checkout is refused while the first one lives, such as one that a
    killed DVC left: both would write the same checkpoints, and one could replace the other's outputs unnoticed.

    Any :class:`PipelineError` or fault of the disk becomes one line on standard error and the
    error's exit code. Other exceptions are bugs of ours and keep their traceback. A rank other than
    rank 0 leaves a receipt of its own where it fails; see :func:`tasks.launch.launcher.launch`.

    Args:
        stage: The stage's name.
        owner: The dataclass of its params section; or a function that reads a params file, for a stage without one.
    """
    refuse_arguments(stage)
    log.set_up(stage)
    _quiet_libraries()
    receipts.begin(stage)

    try:
        refuse_links()
        config = load_section(paths.PARAMS, stage, owner) if isinstance(owner, type) else owner(paths.PARAMS)
        receipts.note_params(digest_of(repr(config)))
        with contextlib.ExitStack() as stack:
            if ranks.is_main():
                stack.enter_context(hold_lock(paths.RUNS / "locks" / stage, f"stage `{stage}` is running"))
            yield config
        receipts.close("ok")
    except (PipelineError, OSError) as error:
        expected = error if isinstance(error, PipelineError) else explain_os_error(error)
        has_receipt = receipts.close(expected.kind if expected else "bug", expected or error)
        if expected is None:
            raise
        # our launcher prints the error of another rank that left a receipt
        if ranks.is_main() or not (has_receipt and ranks.is_of_launcher()):
            log.say(stage, str(expected), "error")
        sys.exit(expected.exit_code)
    except KeyboardInterrupt:
        receipts.close("interrupted")
        log.say(stage, "interrupted; what was finished is kept", "warning")
        sys.exit(130)
    except BaseException as error:
        receipts.close("bug", error)
        raise


def run_first(stage: str) -> None:
    """Run another stage in a process of its own, and end with its status where it fails; it has said why."""
    if status := subprocess.run([sys.executable, "-m", f"tasks.{stage}"], check=False).returncode:
        sys.exit(status)


def option(stage: str, name: str) -> str | None:
    """Return VALUE where this process was started as `python -m tasks.<stage> NAME VALUE`; None otherwise."""
    module = sys.modules["__main__"]
    if getattr(getattr(module, "__spec__", None), "name", "") != f"tasks.{stage}":
        return None
    return sys.argv[2] if len(sys.argv) == 3 and sys.argv[1] == name else None


@contextlib.contextmanager
def look(stage: str) -> Iterator[None]:
    """Open a stage to look only: no receipt is written; an expected error becomes one line and its exit code."""
    log.set_up(stage)
    _quiet_libraries()
    try:
        yield
    except (PipelineError, OSError) as error:
        expected = error if isinstance(error, PipelineError) else explain_os_error(error)
        if expected is None:
            raise
        log.say(stage, str(expected), "error")
        sys.exit(expected.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def refuse_links() -> None:
    """Refuse a folder of outputs that is a link: DVC takes no output behind one, and says so only after the stage ran.

    Raises:
        ConfigError: Naming the link, and other ways to a larger disk.
    """
    above = {parent for out in paths.OUTPUTS for parent in out.parents if parent != Path()}
    for folder in sorted(above):
        if folder.is_symlink():
            raise ConfigError(
                f"`{folder}` is a link, and DVC takes no outputs behind links",
                f"make it a folder; for a larger disk use `dvc cache dir --local FOLDER`, or a bind mount at {folder}",
            )


def refuse_arguments(stage: str) -> None:
    """Where this process was started as `python -m tasks.<stage>`: print the stage's help, or refuse other arguments.

    Raises:
        SystemExit: With status 0 after the help, 2 after an argument that is not known.
    """
    module = sys.modules["__main__"]
    if getattr(getattr(module, "__spec__", None), "name", "") != f"tasks.{stage}" or len(sys.argv) < 2:
        return
    if sys.argv[1] in ("-h", "--help"):
        print((module.__doc__ or "").strip())
        sys.exit(0)
    message = f"unknown argument `{sys.argv[1]}` — its params are in params.yaml; `--help` says what it does"
    log.say(stage, message, "error")
    sys.exit(2)


def _quiet_libraries() -> None:
    """Keep third-party bars and notices out of the log; nothing here changes a result."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if loaded := sys.modules.get("transformers.utils.logging"):  # it has read those names already
        loaded.set_verbosity_error()
        if os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1":
            loaded.disable_progress_bar()
