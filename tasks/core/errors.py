"""The errors that a user can fix: the whole tree.

    PipelineError
    ├── ConfigError       a parameter is unknown, missing or wrong            do: edit params.yaml
    ├── DataError         the preference data or the held-out set is unusable do: fix the data
    ├── ArtifactError     a stage's input folder is missing, torn or altered  do: re-run its stage
    ├── StorageError      a disk or store is full, read-only or unreachable   do: free or open it
    ├── NetworkError      a hub, store or endpoint did not answer             do: try again
    ├── RegistryError     a version, alias or log entry is refused            do: as it says
    ├── Busy              another process does this very work           do: wait for it, or end it
    ├── GateRefused       the evidence does not allow what was asked          do: read decision.json
    └── Preempted         the machine asked to stop; a checkpoint is saved   do: run again

A message says what is wrong, where, and what to do next, in one line. ``kind`` is what a receipt
records and what a retry policy reads; ``exit_code`` is what the process ends with.
"""

from __future__ import annotations

from typing import ClassVar


def printable(text: str) -> str:
    """Return a text that UTF-8 can hold: lone halves of surrogate pairs as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class PipelineError(Exception):
    """An expected failure, shown to the user in one line and without a traceback.

    Args:
        what: What is wrong and where, naming the object.
        todo: The next step, as an instruction; it is printed behind the first sentence.
    """

    kind: ClassVar[str] = "pipeline"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, todo: str = "") -> None:
        self.what, self.todo = (printable(" ".join(text.split())) for text in (what, todo))
        super().__init__(f"{self.what} — {self.todo}" if self.todo else self.what)


class ConfigError(PipelineError):
    """A parameter is unknown, missing, of the wrong type or out of range."""

    kind = "config"


class DataError(PipelineError):
    """Preference data cannot be read or leaves nothing to work on."""

    kind = "data"


class ArtifactError(PipelineError):
    """A folder that another stage wrote is missing, incomplete or not what its manifest says."""

    kind = "artifact"


class StorageError(PipelineError):
    """A disk or a store refuses to be written or read."""

    kind = "storage"


class NetworkError(PipelineError):
    """A server did not answer, or answered with a fault that may pass."""

    kind = "network"


class RegistryError(PipelineError):
    """A registry operation is refused."""

    kind = "registry"


class Busy(PipelineError):
    """Another process, which lives, does the same work in the same place."""

    kind = "busy"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run me again


class GateRefused(PipelineError):
    """Promotion was asked for and the evidence does not support it."""

    kind = "gate"
    exit_code = 3


class Preempted(PipelineError):
    """The process was asked to stop, and has saved a checkpoint to resume from."""

    kind = "preempted"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run me again
