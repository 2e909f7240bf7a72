"""Why bytes of an upload are not taken."""

from tensorguard.services.errors import Conflict, Denied, Invalid, NotFound, Unready


class UploadNotFound(NotFound):
    """The caller has no such upload, or has it no more."""

    code = "upload-not-found"
    hint = "Begin the upload again; one that nothing is sent to ends by itself after a day."


class TooManyUploads(Denied):
    """As many uploads are open as may be (HTTP 429)."""

    code = "too-many-uploads"
    hint = "Finish your open uploads or delete them: GET /api/v1/packages/uploads lists them."
    retry_after_s = 60


class UploadBusy(Unready):
    """Another request writes to the upload (HTTP 423)."""

    code = "upload-busy"
    hint = "Try again after the seconds in Retry-After: a request that was cut ends by itself."
    retry_after_s = 5


class UploadOffsetWrong(Conflict):
    """Bytes do not begin where the upload ends."""

    code = "upload-offset-wrong"
    hint = "Ask for the offset by HEAD, and go on from there."


class UploadComplete(Conflict):
    """The upload is whole: nothing is added to it or taken away."""

    code = "upload-complete"
    hint = "Read what became of it with GET."


class UploadTooLong(Invalid):
    """More bytes come than the upload was to have (HTTP 413)."""

    code = "upload-too-long"
    hint = "Send as many bytes as Upload-Length said."


class UploadIdle(Unready):
    """Nothing came for a while, and the request was ended (HTTP 408)."""

    code = "upload-idle"
    hint = "Ask for the offset by HEAD, and go on from there."


class ChecksumMismatch(Invalid):
    """The bytes of a request are not those of its checksum (HTTP 460, as tus has it)."""

    code = "checksum-mismatch"
    hint = "Send the same bytes again: none of them were kept."


class LeaseLost(Unready):
    """The upload was taken away or given to another writer meanwhile."""

    code = "upload-lease-lost"
    hint = "Ask for the offset by HEAD, and go on from there."
