"""tus 1.0.0, the protocol of resumable uploads: its headers, read and written.

https://tus.io/protocols/resumable-upload, with creation, expiration, termination and checksum.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from email.utils import format_datetime
from typing import Annotated, Final

from fastapi import Header, Request, Response

from api.errors import ApiError
from api.routing import Handler, Route
from tensorguard.services.deployments.uploads import Upload

VERSION: Final = "1.0.0"
MEDIA_TYPE: Final = "application/offset+octet-stream"
EXTENSIONS: Final = "creation,expiration,termination,checksum"
MAX_METADATA_LENGTH: Final = 2048
_KEY = re.compile(r"[!-+\--~]{1,64}")  # visible ASCII without the comma


class BadTusHeader(ApiError):
    """A header is not as tus has it."""

    code = "bad-request"
    hint = "See https://tus.io/protocols/resumable-upload, version 1.0.0."


class WrongTusVersion(ApiError):
    """The client speaks another version of tus, or another protocol."""

    code = "tus-version"
    hint = "Send 'Tus-Resumable: 1.0.0'."


class TusRoute(Route):
    """A route whose every answer names the protocol's version."""

    def get_route_handler(self) -> Handler:
        serve = super().get_route_handler()

        async def serve_tus(request: Request) -> Response:
            response = await serve(request)
            response.headers["Tus-Resumable"] = VERSION
            if response.status_code == 412:
                response.headers["Tus-Version"] = VERSION
            return response

        return serve_tus


async def require_version(
    tus_resumable: Annotated[str | None, Header(description=f"`{VERSION}`.")] = None,
) -> None:
    """Refuse a request in another protocol. Raises: WrongTusVersion."""
    if tus_resumable != VERSION:
        raise WrongTusVersion(f"this route speaks tus {VERSION}")


def check_metadata(text: str) -> str:
    """Return the value of Upload-Metadata, which is `key base64, key, …`. Raises: BadTusHeader."""
    if not text:
        return text
    seen: set[str] = set()
    for pair in text.split(","):
        key, _, value = pair.strip(" ").partition(" ")
        if not _KEY.fullmatch(key) or key in seen:
            raise BadTusHeader("a key in Upload-Metadata is empty, too long, or there twice")
        _decode(value, "Upload-Metadata")
        seen.add(key)
    return text


def read_metadata(text: str) -> Mapping[str, str]:
    """Return the pairs of a checked Upload-Metadata; what is not UTF-8 is replaced."""
    pairs = (pair.strip(" ").partition(" ") for pair in text.split(",") if pair)
    return {key: base64.b64decode(value).decode(errors="replace") for key, _, value in pairs}


def parse_checksum(text: str | None) -> bytes | None:
    """Return the SHA-256 in Upload-Checksum. Raises: BadTusHeader."""
    if text is None:
        return None
    algorithm, _, value = text.partition(" ")
    digest = _decode(value, "Upload-Checksum")
    if algorithm != "sha256" or len(digest) != 32:
        raise BadTusHeader("Upload-Checksum is not 'sha256' and 32 bytes in base64")
    return digest


def upload_headers(upload: Upload, offset: int | None = None) -> dict[str, str]:
    """Return how an upload stands, as headers."""
    headers = {"Upload-Expires": format_datetime(upload.expires_at, usegmt=True)}
    if offset is not None:
        headers["Upload-Offset"] = str(offset)
    return headers


def _decode(value: str, header: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise BadTusHeader(f"{header} has a value that is not base64") from None
