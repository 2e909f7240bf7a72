"""What an S3 SDK's exception means to us; its text may quote the request, and is left behind."""

from typing import Final

import structlog

from tensorguard.store.errors import StoreError
from tensorguard.store.package_store import PackageStoreUnavailable, StoreFull

log = structlog.get_logger()
_MISSING: Final = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound", "NoSuchBucket"})
_TAKEN: Final = frozenset({"412", "PreconditionFailed", "409", "ConditionalRequestConflict"})
# MinIO and Ceph; S3 itself is never full.
_FULL: Final = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507"})


class Missing(PackageStoreUnavailable):
    """The object, upload or bucket is not there."""


class Taken(PackageStoreUnavailable):
    """There is an object already, or another one than was expected."""


def translate(error: Exception) -> StoreError:
    """Return the error of ours that stands for one of boto3's."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
    if code in _MISSING:
        return Missing("the package store does not have it")
    if code in _TAKEN:
        return Taken("the package store has another object there")
    if code in _FULL:
        return StoreFull("the package store is full")
    reason = str(code or type(error).__name__)[:64]
    log.warning("package_store_failed", reason=reason)
    return PackageStoreUnavailable(f"the package store did not do it: {reason}")
