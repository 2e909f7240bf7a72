"""The interface as the api serves it, and the policy that a browser holds it to."""

import gzip
from pathlib import Path

import httpx
import pytest

from api.ui.assets import read_assets
from api.ui.pages import Ui
from tests.integration.api.clients import BASE_URL

PAGE = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """What a build leaves behind, and beside it what is nobody's business."""
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html><div id=app></div>")
    (static / "favicon.svg").write_text("<svg/>")
    (static / "assets/main-abc123.js").write_text("console.log('built');" * 100)
    (static / "assets/font-def456.woff2").write_bytes(b"wOF2" + bytes(100))
    (tmp_path / "secret.key").write_text("secret")
    return static


@pytest.fixture
def browser(built: Path) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Ui(read_assets(built)))
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL)


async def test_every_page_of_the_router_is_the_same_document(browser: httpx.AsyncClient) -> None:
    for path in ("/", "/agents", "/agents/0199.js", "/deep/er/page?x=1"):
        answer = await browser.get(path, headers=PAGE)
        assert answer.status_code == 200
        assert answer.text == "<!doctype html><div id=app></div>"
        assert answer.headers["cache-control"] == "no-cache"


async def test_the_document_forbids_whatever_is_inline_or_from_elsewhere(
    browser: httpx.AsyncClient,
) -> None:
    policy = (await browser.get("/", headers=PAGE)).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert "unsafe" not in policy
    assert rules["default-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"


async def test_hashed_files_are_kept_for_ever_and_others_asked_for_again(
    browser: httpx.AsyncClient,
) -> None:
    hashed = await browser.get("/assets/main-abc123.js")
    assert hashed.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert hashed.headers["content-type"].startswith("text/javascript")
    icon = await browser.get("/favicon.svg")
    assert icon.headers["cache-control"] == "no-cache"
    again = await browser.get("/favicon.svg", headers={"If-None-Match": icon.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


async def test_text_travels_compressed_to_whoever_can_read_that(built: Path) -> None:
    transport = httpx.ASGITransport(Ui(read_assets(built)))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        url = "/assets/main-abc123.js"
        async with client.stream("GET", url, headers={"Accept-Encoding": "gzip, br"}) as answer:
            packed = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert len(packed) == int(answer.headers["content-length"])
        plain = await client.get(url, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert gzip.decompress(packed) == plain.content
        font = await client.get("/assets/font-def456.woff2", headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in font.headers


@pytest.mark.parametrize(
    "path",
    ["/../secret.key", "/assets/../../secret.key", "/%2e%2e/secret.key", "/assets/", "/index"],
)
async def test_only_what_was_built_can_be_read(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not-found"
    assert "secret" not in (await browser.get(path, headers=PAGE)).text.replace(path, "")


async def test_a_missing_file_of_the_api_is_a_problem_and_never_the_page(
    browser: httpx.AsyncClient,
) -> None:
    for path in ("/api/v1/nothing", "/api/v2/agents", "/device/v1/ca"):
        answer = await browser.get(path, headers=PAGE)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


async def test_pages_are_only_read(browser: httpx.AsyncClient) -> None:
    answer = await browser.post("/agents", headers=PAGE)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    head = await browser.head("/", headers=PAGE)
    assert head.status_code == 200
    assert head.content == b""


async def test_without_a_build_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    transport = httpx.ASGITransport(Ui(read_assets(tmp_path)))
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        answer = await client.get("/", headers=PAGE)
    assert answer.status_code == 404
    assert "make setup" in answer.text
