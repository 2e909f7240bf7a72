"""A package that the platform has elsewhere: one redirect, to https, with nothing but the range."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event

import pytest

from agent.runtime.downloader import DownloadFailed, download
from tests.integration.agent.certificates import ServerFiles, new_server_files

CONTENT = bytes(range(256)) * 40


@dataclass
class Site:
    """An HTTPS server that answers as it is told, and remembers what it was sent."""

    files: ServerFiles
    url: str = ""
    location: str | None = None
    status: int = 200
    seen: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.seen.append({name.lower(): value for name, value in self.headers.items()})
            if site.location is not None:
                self.send_response(307)
                self.send_header("Location", site.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first = int(self.headers.get("Range", "bytes=0-")[6:-1])
            body = CONTENT[first:] if site.status == 200 else b"no"
            self.send_response(206 if first and site.status == 200 else site.status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.files.certificate, site.files.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    site.url = f"https://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Where packages are; the machine believes its CA, as it does public ones."""
    files = new_server_files(tmp_path, "store")
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    with serving(Site(files)) as site:
        yield site


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Site]:
    with serving(Site(new_server_files(tmp_path, "platform"))) as site:
        yield site


def fetch(platform: Site, target: Path, *, trusts: Path | None = None) -> bytes:
    download(
        platform.url,
        "/device/v1/packages/x?sig=secret",
        target,
        len(CONTENT),
        platform=ssl.create_default_context(cafile=str(trusts or platform.files.ca)),
        cancelled=Event(),
        progress=lambda done: None,
    )
    return target.read_bytes()


def test_the_bytes_come_from_the_store(platform: Site, store: Site, tmp_path: Path) -> None:
    platform.location = f"{store.url}/bucket/key?X-Amz-Signature=abc"
    assert fetch(platform, tmp_path / "package") == CONTENT
    (asked,) = store.seen
    assert not {"authorization", "cookie", "referer"} & asked.keys()


def test_a_download_that_was_cut_goes_on_at_the_store(
    platform: Site, store: Site, tmp_path: Path
) -> None:
    platform.location = f"{store.url}/bucket/key"
    (tmp_path / "package.partial").write_bytes(CONTENT[:1000])
    (tmp_path / "package.etag").write_text('"the-same"')
    assert fetch(platform, tmp_path / "package") == CONTENT
    assert (store.seen[0]["range"], store.seen[0]["if-range"]) == ("bytes=1000-", '"the-same"')


def test_only_one_redirect_is_followed(platform: Site, store: Site, tmp_path: Path) -> None:
    platform.location = f"{store.url}/bucket/key"
    store.location = f"{store.url}/another"
    with pytest.raises(DownloadFailed) as caught:
        fetch(platform, tmp_path / "package")
    assert caught.value.failure.kind == "network"
    assert len(store.seen) == 1


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/key", "/here", "file:///etc/passwd", ""])
def test_only_https_is_followed(platform: Site, tmp_path: Path, location: str) -> None:
    platform.location = location
    with pytest.raises(DownloadFailed) as caught:
        fetch(platform, tmp_path / "package")
    assert caught.value.failure.code == "redirect-not-https"


def test_a_store_that_refuses_is_asked_again_by_a_new_link(
    platform: Site, store: Site, tmp_path: Path
) -> None:
    platform.location, store.status = f"{store.url}/bucket/key?secret", 403
    with pytest.raises(DownloadFailed) as caught:
        fetch(platform, tmp_path / "package")
    failure = caught.value.failure
    assert (failure.kind, failure.code) == ("network", "store-refused")
    assert "secret" not in failure.reason


def test_a_store_that_the_machine_does_not_believe_gets_nothing(
    platform: Site, store: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(platform.files.ca))
    platform.location = f"{store.url}/bucket/key"
    with pytest.raises(DownloadFailed):
        fetch(platform, tmp_path / "package")
    assert store.seen == []
