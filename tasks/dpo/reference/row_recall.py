"""Pairs that were scored before: their log-probabilities, from the row store and back to it."""

from __future__ import annotations

import numpy as np
from accelerate import Accelerator

from tasks.core import ragged
from tasks.dpo.dataset.blocks import Block
from tasks.dpo.model.distributed import from_main
from tasks.dpo.reference.row_identity import ReferenceIdentity, row_keys
from tasks.rowstore.row_store import RowStore


class RowRecall:
    """Fills blocks from a store of rows, and adds to the store what was scored since.

    Args:
        store: Rows of the kind `reference`; read on rank 0, written on every rank.
        identity: What the reference is; a part of every key.
    """

    def __init__(self, store: RowStore, identity: ReferenceIdentity) -> None:
        self.store, self.identity = store, identity

    def fill(self, block: Block, accelerator: Accelerator) -> None:
        """Mark the stored rows of ``block`` as done on every rank, and put their values there on rank 0.

        Raises:
            StorageError: The store cannot be read.
            NetworkError: The store does not answer.
        """
        block.keys = row_keys(block.tokens, self.identity.digest)
        if accelerator.is_main_process:
            stored = self.store.get(block.keys)
            rows = np.flatnonzero(stored.mask & (stored.lengths == block.lengths))
            block.put(rows, stored.flat[ragged.spans(stored.starts[rows], block.lengths[rows])])
        # ranks on other machines need not share the disk
        block.was_stored = from_main(accelerator, block.is_done)
        block.is_done, block.is_stored = block.was_stored.copy(), block.was_stored.copy()

    def keep(self, block: Block) -> None:
        """Add the rows of ``block`` that are done and not stored yet.

        Raises:
            OSError: The disk is full, or refuses.
            StorageError: The bucket refuses.
            NetworkError: The bucket does not answer.
        """
        if len(new := np.flatnonzero(block.is_done & ~block.is_stored)):
            places = ragged.spans(block.begins[new], block.lengths[new])
            self.store.append(block.keys[new], block.flat[places], block.lengths[new])
        block.is_stored = block.is_done.copy()
