"""What `qualify` fits for the judge `own`, in one file: the head, the classifier of non-answers, and their facts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError
from tasks.core.files import digest_of, sha256_bytes
from tasks.judges.models.linear_head import Head
from tasks.judges.models.non_answers import NonAnswers

HEAD_FILE = "own_head.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class OwnModel:
    """The fitted parts of the judge `own`.

    Attributes:
        head: Scores the features of a reply.
        non_answers: Recognises replies that answer nothing.
        facts: What both were fitted on, as plain values.
    """

    head: Head
    non_answers: NonAnswers
    facts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """A digest of all of it."""
        arrays = [sha256_bytes(each.tobytes()) for each in (self.head.weights, self.non_answers.weights)]
        return digest_of([arrays, *self._numbers(), dict(self.facts)])

    def _numbers(self) -> list[float]:
        return [self.head.offset, self.head.lowest, self.head.highest]

    def save(self, path: Path) -> None:
        """Write it as a safetensors file; equal ones are equal bytes."""
        from safetensors.numpy import save_file

        about = json.dumps({"facts": dict(self.facts), "numbers": self._numbers()}, sort_keys=True)
        tensors = {"head": self.head.weights, "non_answers": self.non_answers.weights}
        save_file(tensors, path, {"own": about})

    @classmethod
    def load(cls, path: Path) -> OwnModel:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: There is no such file, or it holds something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                about = json.loads(file.metadata()["own"])
                offset, lowest, highest = about["numbers"]
                head = Head(file.get_tensor("head"), offset, lowest, highest)
                return cls(head, NonAnswers(file.get_tensor("non_answers")), about["facts"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            what = f"{path} holds no fitted judge ({type(error).__name__})"
            raise ArtifactError(what, "run `dvc repro -f qualify`") from None
