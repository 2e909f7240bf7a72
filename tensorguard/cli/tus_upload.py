"""A package sent by tus, chunk by chunk: what is cut is gone on with, now or by the next command.

A hundred lines instead of tuspy, which brings requests, aiohttp and a database of its own, and
keeps where an upload is on this machine; here the platform is asked, so that any machine goes on.
https://tus.io/protocols/resumable-upload
"""

import base64
import hashlib
import random
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Self
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

PATH: Final = "/api/v1/packages/uploads"
CHUNK_BYTES: Final = 32 * 1024 * 1024
TRIES: Final = 8
_FIRST_WAIT_S: Final = 1.0
_MOST_WAIT_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.5
_HEAD_BYTES: Final = 1024 * 1024
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_TUS: Final = {"Tus-Resumable": "1.0.0"}
_PASSING: Final = frozenset({408, 423, 425, 429, 500, 502, 503, 504, 507})
_RANDOM: Final = random.SystemRandom()

Progress = Callable[[int, int], None] | None


class UploadFailed(Exception):
    """The package is not on the platform; `code`, `message` and `hint` are mostly its words."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class _Passing(Exception):
    """A request that may succeed if it is sent again."""


class Platform:
    """One platform's API, with a key."""

    def __init__(self, url: str, key: str, ca: Path | None) -> None:
        """Raises: UploadFailed if the key would go over the network in the clear."""
        where = urlsplit(url)
        if where.scheme != "https" and where.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise UploadFailed("url-not-https", f"{url} is not https", "Name an https:// URL.")
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT,
            trust_env=False,
            verify=ssl.create_default_context(cafile=None if ca is None else str(ca)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send one request. Raises: UploadFailed, or _Passing where it is worth another try."""
        try:
            answer = self._http.request(method, path, **more)
        except httpx.TransportError as error:
            raise _Passing(f"no answer: {type(error).__name__}") from error
        if answer.is_success:
            return answer
        refused = _refused(answer)
        if answer.status_code in _PASSING or refused.code == "upload-offset-wrong":
            raise _Passing(f"HTTP {answer.status_code}") from refused
        raise refused

    def insist(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request until it is answered, for a while. Raises: UploadFailed."""
        for attempt in range(1, TRIES + 1):
            try:
                return self.send(method, path, **more)
            except _Passing as error:
                give_up_or_wait(attempt, error)
        raise AssertionError("the last attempt returns or raises")


def send_package(platform: Platform, file: Path, progress: Progress = None) -> Mapping[str, Any]:
    """Send a file, or what of it the platform does not have yet; return the package.

    Raises: UploadFailed.
    """
    with file.open("rb") as reading:
        size_bytes = file.stat().st_size
        place = _find_or_begin(platform, file.name, size_bytes, _fingerprint(reading))
        _send_rest(platform, place, reading, size_bytes, progress)
    found = _wait_for_verdict(platform, place)
    package: Mapping[str, Any] = platform.insist(
        "GET", f"/api/v1/packages/{found['package_digest']}"
    ).json()
    return package


def _find_or_begin(platform: Platform, name: str, size_bytes: int, fingerprint: str) -> str:
    """Return the path of our open upload of this very file, or of a new one."""
    for one in platform.insist("GET", PATH).json()["items"]:
        if (one["state"], one["length_bytes"]) != ("receiving", size_bytes):
            continue
        place = f"{PATH}/{one['id']}"
        metadata = platform.insist("HEAD", place, headers=_TUS).headers.get("upload-metadata", "")
        if f"fingerprint {_b64(fingerprint)}" in metadata.split(","):
            return place
    named = f"filename {_b64(name)},fingerprint {_b64(fingerprint)}"
    headers = {
        "Upload-Length": str(size_bytes),
        "Upload-Metadata": named,
        "Idempotency-Key": str(uuid4()),  # an answer that was cut off is given again
    }
    answer = platform.insist("POST", PATH, headers=_TUS | headers)
    return str(answer.headers["location"])


def _send_rest(
    platform: Platform, place: str, file: BinaryIO, size_bytes: int, progress: Progress
) -> None:
    """Send chunks from where the platform is; after each failure it is asked where that is."""
    offset, attempt = _offset(platform, place), 0
    while offset < size_bytes:
        if progress:
            progress(offset, size_bytes)
        file.seek(offset)
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        try:
            answer = platform.send(
                "PATCH", place, headers=_TUS | headers, content=file.read(CHUNK_BYTES)
            )
            offset, attempt = int(answer.headers["upload-offset"]), 0
        except _Passing as error:
            attempt += 1
            give_up_or_wait(attempt, error)
            before, offset = offset, _offset(platform, place)
            attempt = attempt if offset == before else 0
    if progress:
        progress(size_bytes, size_bytes)


def _offset(platform: Platform, place: str) -> int:
    return int(platform.insist("HEAD", place, headers=_TUS).headers["upload-offset"])


def _wait_for_verdict(platform: Platform, place: str) -> Mapping[str, Any]:
    """Ask until the platform has decided; an upload ends in any case. Raises: UploadFailed."""
    while True:
        found: Mapping[str, Any] = platform.insist("GET", place).json()
        if found["state"] == "done":
            return found
        if found["state"] == "refused":
            problem = found["problem"]
            raise UploadFailed(problem["code"], problem["detail"], problem["hint"])
        time.sleep(_LOOK_EVERY_S)


def give_up_or_wait(attempt: int, error: Exception) -> None:
    """Wait, longer after each attempt and by chance. Raises: UploadFailed after the last."""
    if attempt >= TRIES:
        if isinstance(error.__cause__, UploadFailed):
            raise error.__cause__
        raise UploadFailed(
            "platform-unreachable",
            f"the platform did not take it: {error}",
            "Run the command again: it goes on where it was.",
        ) from error
    time.sleep(_RANDOM.random() * min(_FIRST_WAIT_S * 2**attempt, _MOST_WAIT_S))


def _fingerprint(file: BinaryIO) -> str:
    """Tell this file from others of its size: by its head, which signs the rest of a package."""
    return hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _refused(answer: httpx.Response) -> UploadFailed:
    try:
        problem = answer.json()
        return UploadFailed(problem["code"], problem["detail"], problem["hint"])
    except (ValueError, LookupError, TypeError):
        return UploadFailed(
            "unexpected-answer", f"HTTP {answer.status_code}", "Is this the platform's URL?"
        )
