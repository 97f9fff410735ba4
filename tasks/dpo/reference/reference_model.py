"""The reference model, loaded when the first row has to be scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tasks.core.base_model import BaseModel
from tasks.core.pinned_adapter import PinnedAdapter
from tasks.core.runtime import RuntimeConfig


def load_reference(base: Path, adapter: PinnedAdapter | None, accelerator: Accelerator, runtime: RuntimeConfig) -> Any:
    """Load the base with ``adapter`` on it, frozen, where there is one; the files are checked.

    Raises:
        ArtifactError: A file is damaged.
        ConfigError: The adapter does not fit the base.
    """
    from tasks.dpo.model.adapter_loading import load_adapter  # with transformers and PEFT, which take seconds to import
    from tasks.dpo.model.base_loading import load_base
    from tasks.dpo.model.sharding import is_wanted

    model = load_base(BaseModel.open(base), accelerator.device, is_sharded=is_wanted(runtime, accelerator))
    return load_adapter(model, adapter.folder).requires_grad_(False) if adapter else model
