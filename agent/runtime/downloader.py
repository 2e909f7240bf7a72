"""Fetching a package file: ranges, taken up where the last try ended, into `*.partial`."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx

from agent.core.errors import FailureKind, JobFailure

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_REFUSED_LINK = frozenset({401, 403, 404, 410})
_BUSY = frozenset({429, 503})


class DownloadFailed(Exception):
    """A try ended without the whole file; what came is kept."""

    def __init__(self, kind: FailureKind, code: str, message: str) -> None:
        super().__init__(message)
        self.failure = JobFailure(kind, code, message)


class Cancelled(Exception):
    """Nobody wants the result any more."""


def download(
    base_url: str,
    url: str,
    target: Path,
    size_bytes: int,
    *,
    platform: ssl.SSLContext,
    cancelled: Event,
    progress: Callable[[int], None],
) -> None:
    """Bring `target` to exactly `size_bytes`, durably; it appears under its name only when whole.

    `url` may be relative to `base_url`, and may answer with one redirect to a store elsewhere
    (307): to https only, judged by the CAs of this machine instead of the platform's, sent nothing
    but the range, and not followed any further. The bytes are not believed here: the package's
    digest and signature are checked next.

    Raises: DownloadFailed, Cancelled.
    """
    if target.is_file() and target.stat().st_size == size_bytes:
        return
    partial = target.with_name(target.name + ".partial")
    etag_file = target.with_name(target.name + ".etag")
    try:
        if partial.is_file() and partial.stat().st_size > size_bytes:
            partial.unlink()
        with partial.open("ab") as file:
            os.fchmod(file.fileno(), 0o600)
            if file.tell() < size_bytes:
                full_url = urljoin(base_url + "/", url)
                _fetch(full_url, file, size_bytes, platform, etag_file, cancelled, progress)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(target)
        etag_file.unlink(missing_ok=True)
    except httpx.HTTPError as error:
        raise DownloadFailed("network", "download-failed", _describe(error)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DownloadFailed("device", "cannot-store", f"{partial}: {reason}") from error


def _fetch(
    url: str,
    file: BinaryIO,
    size_bytes: int,
    platform: ssl.SSLContext,
    etag_file: Path,
    cancelled: Event,
    progress: Callable[[int], None],
) -> None:
    if urlsplit(url).scheme != "https":
        raise DownloadFailed("link", "link-not-https", "the package's URL is not https")
    headers = {"Accept-Encoding": "identity"}
    offset = file.tell()
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if etag_file.is_file():
            headers["If-Range"] = etag_file.read_text("ascii").strip()
    with _client(platform) as client, client.stream("GET", url, headers=headers) as answer:
        if answer.status_code not in (302, 303, 307):
            _save(answer, file, size_bytes, etag_file, cancelled, progress)
            return
        elsewhere = answer.headers.get("Location", "")
    if urlsplit(elsewhere).scheme != "https":
        raise DownloadFailed("network", "redirect-not-https", "the redirect is not to https")
    with (
        _client(ssl.create_default_context()) as client,
        client.stream("GET", elsewhere, headers=headers) as answer,
    ):
        if answer.status_code in _REFUSED_LINK:
            # The store's own link, good for seconds: the platform's is, and gives another.
            status = answer.status_code
            raise DownloadFailed("network", "store-refused", f"HTTP status {status}")
        _save(answer, file, size_bytes, etag_file, cancelled, progress)


def _client(context: ssl.SSLContext) -> httpx.Client:
    # trust_env False: neither proxy variables nor SSL_CERT_FILE have a say in this.
    return httpx.Client(
        verify=context, trust_env=False, timeout=TIMEOUT, follow_redirects=False, http2=False
    )


def _save(
    answer: httpx.Response,
    file: BinaryIO,
    size_bytes: int,
    etag_file: Path,
    cancelled: Event,
    progress: Callable[[int], None],
) -> None:
    done = _begin(answer, file, etag_file)
    for block in answer.iter_raw():
        if cancelled.is_set():
            raise Cancelled
        done += len(block)
        if done > size_bytes:
            file.truncate(0)
            message = f"more than the {size_bytes} bytes of the desired document"
            raise DownloadFailed("damaged", "wrong-size", message)
        file.write(block)
        progress(done)
    if done < size_bytes:
        raise DownloadFailed("network", "download-cut", f"ended at {done} of {size_bytes} bytes")


def _begin(answer: httpx.Response, file: BinaryIO, etag_file: Path) -> int:
    status = answer.status_code
    if status == 200:
        file.truncate(0)
    elif status == 206:
        first = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if first != str(file.tell()):
            file.truncate(0)
            raise DownloadFailed("network", "wrong-range", "the server answered another range")
    elif status == 416:
        file.truncate(0)
        raise DownloadFailed("network", "wrong-range", "the server has not so many bytes")
    elif status in _REFUSED_LINK:
        raise DownloadFailed("link", "link-refused", f"HTTP status {status}")
    elif status in _BUSY:
        raise DownloadFailed("busy", "platform-busy", f"HTTP status {status}")
    else:
        raise DownloadFailed("network", "download-failed", f"HTTP status {status}")
    etag = answer.headers.get("ETag", "")
    if etag.startswith('"') and etag.isascii() and len(etag) <= 200:
        etag_file.write_text(etag, "ascii")
    return file.tell() if status == 206 else 0


def _describe(error: httpx.HTTPError) -> str:
    # An error's text may quote the URL, whose query is a credential.
    cause = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {type(cause).__name__}" if cause else type(error).__name__
