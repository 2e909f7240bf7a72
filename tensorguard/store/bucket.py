"""A bucket of S3, or of what speaks like it, by the AWS SDK: calls in threads, errors of ours."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from tensorguard.store.bucket_errors import translate
from tensorguard.store.errors import StoreError

T = TypeVar("T")
_THREADS: Final = 16
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]{0,200}")


class BadStoreUrl(StoreError):
    """TG_PACKAGE_STORE names no place for packages."""

    code = "bad-settings"
    hint = "Set it to s3://bucket/prefix, or leave it out to keep packages in the data directory."


class MissingLibrary(StoreError):
    """The SDK for the bucket is not installed."""

    code = "missing-extra"
    hint = "pip install 'tensorguard-platform[aws]'"


class BucketName(NamedTuple):
    """A bucket, and what its keys begin with: empty, or with a `/` at its end."""

    bucket: str
    prefix: str


def parse_store_url(url: str) -> BucketName:
    """Return what `s3://bucket/prefix` names. Raises: BadStoreUrl."""
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    good = parts.scheme == "s3" and _BUCKET.fullmatch(parts.netloc) and _PREFIX.fullmatch(prefix)
    if not good or parts.query or parts.fragment:
        raise BadStoreUrl("TG_PACKAGE_STORE is not s3://bucket/prefix")
    return BucketName(parts.netloc, f"{prefix}/" if prefix else "")


def make_client() -> Any:
    """An S3 client; credentials, region and endpoint come from boto3's usual chain.

    Raises: MissingLibrary.
    """
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError:
        raise MissingLibrary("TG_PACKAGE_STORE=s3://… needs boto3") from None
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"total_max_attempts": 4, "mode": "standard"},
        max_pool_connections=_THREADS,
        signature_version="s3v4",
        user_agent_extra="tensorguard",
    )
    return boto3.session.Session().client("s3", config=config)


class Bucket:
    """One bucket. Every call raises Missing, Taken, StoreFull or PackageStoreUnavailable."""

    def __init__(self, name: str, *, make: Callable[[], Any] = make_client) -> None:
        """Raises: MissingLibrary, PackageStoreUnavailable."""
        self.name = name
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="bucket")
        try:
            self.client = make()
        except Exception as error:
            raise translate(error) from None

    async def call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of the SDK on this bucket."""
        method = getattr(self.client, operation)
        return await self.run(lambda: method(Bucket=self.name, **arguments))

    async def run(self, work: Callable[[], T]) -> T:
        """Run what blocks in a thread; a call that is cancelled ends there by its own timeout."""

        def translated() -> T:
            try:
                return work()
            except Exception as error:
                # An SDK's exception may quote the request: it is neither chained nor shown.
                raise translate(error) from None

        return await asyncio.get_running_loop().run_in_executor(self._threads, translated)

    def close(self) -> None:
        """Wait for no call; each ends by its own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.client.close()
