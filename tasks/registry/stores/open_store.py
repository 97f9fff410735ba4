"""Open the registry's store: a folder, or a prefix of a bucket."""

from __future__ import annotations

from pathlib import Path

from tasks.registry.stores.main_checkout import main_checkout
from tasks.registry.stores.store import Store


def open_store(root: str, encryption: str = "", kms_key: str = "") -> Store:
    """Return the store at ``root``: a folder, relative to the main checkout, or ``s3://bucket/prefix``.

    Args:
        root: Where it is.
        encryption: Of a bucket: how the server encrypts (`AES256`, `aws:kms`); the bucket's default when empty.
        kms_key: The key for `aws:kms`; the account's default when empty.

    Raises:
        ConfigError: ``root`` is an address of another kind.
    """
    if "://" in root:
        from tasks.registry.stores.s3 import S3Store  # boto3 is slow to import

        return S3Store(root, encryption, kms_key)
    from tasks.registry.stores.folder import FolderStore

    checkout = main_checkout()
    return FolderStore(Path(root) if checkout == Path.cwd() else checkout / root)
