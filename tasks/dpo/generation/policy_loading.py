"""The policy as it answers: the base with the trained adapter and, beside it, the champion's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from peft import PeftModel

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError
from tasks.core.pinned_adapter import PinnedAdapter
from tasks.core.runtime import RuntimeConfig
from tasks.dpo.generation.sampling import CHAMPION
from tasks.dpo.model import sharding
from tasks.dpo.model.base_loading import load_base


def load_policy(
    base: BaseModel, adapter: Path, champion: PinnedAdapter | None, accelerator: Accelerator, runtime: RuntimeConfig
) -> Any:
    """Load the base with the adapter in the folder ``adapter``, and the champion's under the name ``CHAMPION``.

    Raises:
        ArtifactError: An adapter does not fit the base, or a file is damaged.
    """
    is_sharded = sharding.is_wanted(runtime, accelerator)
    try:
        policy = PeftModel.from_pretrained(load_base(base, accelerator.device, is_sharded), str(adapter))
        if champion:
            policy.load_adapter(str(champion.folder), CHAMPION)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        what = f"the adapter in {adapter} does not fit the base model ({error})"
        raise ArtifactError(what[:500], "train it on this base: `dvc repro train`") from None
    return sharding.place(policy.eval(), accelerator, runtime)
