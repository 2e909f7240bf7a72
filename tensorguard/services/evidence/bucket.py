"""Checkpoints in an S3 bucket with Object Lock: nobody takes one back before its time is over.

COMPLIANCE mode, which not even the account's root user can end
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html). The bucket has to be made
with Object Lock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tensorguard.ledger.checkpoint import MAX_NOTE_BYTES, parse_checkpoint
from tensorguard.ledger.errors import LedgerError
from tensorguard.services.evidence.witnesses import Seen, seen_in

TIMEOUT_S: Final = 10
ATTEMPTS: Final = 3
_PAGES: Final = 50  # of 1,000 keys: a ledger that is so far behind is behind


class BucketFailed(LedgerError):
    """The bucket did not take a checkpoint, or did not say which it has."""

    code = "bucket-failed"
    hint = (
        "The bucket needs Object Lock, and the credentials s3:PutObject,"
        " s3:PutObjectRetention, s3:GetObject and s3:ListBucket."
    )


class BucketLibraryMissing(LedgerError):
    """TG_LEDGER_BUCKET is set, and boto3 is not installed."""

    code = "bucket-library-missing"
    hint = "pip install 'tensorguard-platform[aws]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings:
    """Where checkpoints go, and how long they cannot be removed."""

    name: str
    prefix: str = ""
    retention: timedelta = timedelta(days=3650)
    endpoint_url: str | None = None


class CheckpointBucket:
    """Puts checkpoints and finds newer ones. Blocks: call it in a thread."""

    def __init__(self, settings: BucketSettings, client: Any | None = None) -> None:
        """`client`: an S3 client of boto3; made from the environment unless given."""
        self._settings = settings
        self._client = _new_client(settings) if client is None else client

    def put(self, note: str, *, now: datetime) -> str:
        """Store a signed note under its epoch and size; return the key. Raises: BucketFailed."""
        seen = seen_in(parse_checkpoint(note))
        key = self._key(seen.epoch, seen.size)
        self._call(
            lambda: self._client.put_object(
                Bucket=self._settings.name,
                Key=key,
                Body=note.encode(),
                ContentType="text/plain; charset=utf-8",
                ChecksumAlgorithm="SHA256",  # S3 asks for one where an object is locked
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=now + self._settings.retention,
            )
        )
        return key

    def find_newer(self, than: Seen) -> str | None:
        """Return the newest note that the bucket has beyond a checkpoint, or None.

        Raises: BucketFailed; BadCheckpoint where the object is none.
        """
        newest, after = None, self._key(than.epoch, than.size)
        for _ in range(_PAGES):
            page = self._list(after)
            keys = [item["Key"] for item in page.get("Contents", ())]
            if not keys:
                break
            newest = after = keys[-1]
            if not page.get("IsTruncated"):
                break
        if newest is None:
            return None
        return self._read(newest)

    def _list(self, after: str) -> Any:
        return self._call(
            lambda: self._client.list_objects_v2(
                Bucket=self._settings.name, Prefix=self._folder, StartAfter=after
            )
        )

    def _read(self, key: str) -> str:
        answer = self._call(lambda: self._client.get_object(Bucket=self._settings.name, Key=key))
        note: str = answer["Body"].read(MAX_NOTE_BYTES + 1).decode(errors="replace")
        parse_checkpoint(note)
        return note

    @property
    def _folder(self) -> str:
        return f"{self._settings.prefix}checkpoints/"

    def _key(self, epoch: int, size: int) -> str:
        # Zero-padded: the order of keys is the order of checkpoints.
        return f"{self._folder}{epoch:010d}/{size:020d}"

    def _call(self, call: Callable[[], Any]) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except (BotoCoreError, ClientError) as error:
            raise BucketFailed(f"bucket {self._settings.name!r}: {str(error)[:300]}") from error


def _new_client(settings: BucketSettings) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError as error:
        raise BucketLibraryMissing(f"{error.name} is not installed") from None
    limits = Config(
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
    )
    return boto3.client("s3", config=limits, endpoint_url=settings.endpoint_url)
