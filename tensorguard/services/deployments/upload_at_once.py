"""An upload in one request, which waits for the verdict: for curl."""

from collections.abc import AsyncIterator

from tensorguard.services.deployments.packages import Uploaded
from tensorguard.services.deployments.receiving import Receiver
from tensorguard.services.deployments.verifying import REFUSALS, UploadVerifier
from tensorguard.services.evidence.event import Actor
from tensorguard.store.package_store import FileTooLarge


async def upload_at_once(
    receiver: Receiver,
    verifier: UploadVerifier,
    blocks: AsyncIterator[bytes],
    *,
    length_bytes: int | None,
    by: Actor,
) -> Uploaded:
    """Take a package in; of one that is refused, or cut, nothing stays.

    Raises: FileTooLarge, TooManyUploads, UploadIdle, REFUSALS, StoreError, VaultError, and what
        `blocks` raises.
    """
    # One of no bytes would be whole, and another's to verify, before it is held here.
    upload = await receiver.begin(length_bytes=length_bytes or None, by=by)
    try:
        async with receiver.hold(upload.id) as held:
            await receiver.write(held, blocks, offset=0, announced_bytes=length_bytes)
            return await verifier.verify_held(held)
    except FileTooLarge as error:  # it was not announced
        await verifier.note_refusal(error.code, by=by)
        await verifier.end(upload.id)
        raise
    except REFUSALS:
        raise
    except BaseException:
        await verifier.end(upload.id)
        raise
