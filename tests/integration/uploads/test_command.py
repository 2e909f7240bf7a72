"""`tensorguard packages upload`, against an api on a socket."""

import asyncio
import base64
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.deployments.builders import Platform
from tests.integration.uploads.curl import UPLOADS, Curl
from tests.integration.uploads.store import Store
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.parametrize("store", ["files"], indirect=True)


async def command(curl: Curl, file: Path, *, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """Run it; return its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tensorguard.cli", "packages", "upload", str(file), "--json"),
        env=os.environ | {"TG_API_KEY": key or curl.key, "TG_URL": curl.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, json.loads(out or error)


async def test_a_package_is_sent_and_one_that_is_refused_says_why(
    platform: Platform, curl: Curl, store: Store
) -> None:
    file = platform.build_package()
    content = await asyncio.to_thread(file.read_bytes)
    code, package = await command(curl, file)
    assert (code, package["name"]) == (0, "model")
    assert list(store.kept().values()) == [content]
    await asyncio.to_thread(file.write_bytes, content[:-1] + bytes([content[-1] ^ 1]))
    code, told = await command(curl, file)
    assert (code, told["error"]["code"]) == (1, "ciphertext-mismatch")
    far = Curl("http://platform.example", curl.key, curl.folder)
    assert (await command(far, file))[1]["error"]["code"] == "url-not-https"
    code, told = await command(curl, file, key="tg_wrong")
    assert (code, told["error"]["code"]) == (1, "unauthenticated")


async def test_it_goes_on_where_another_was_cut(
    platform: Platform, curl: Curl, store: Store
) -> None:
    file = platform.build_package()
    content = await asyncio.to_thread(file.read_bytes)
    fingerprint = hashlib.sha256(content[: 1024 * 1024]).hexdigest()
    encode: Callable[[bytes], bytes] = base64.b64encode
    named = f"Upload-Metadata: fingerprint {encode(fingerprint.encode()).decode()}"
    other = await curl.begin(len(content))
    place = await curl.begin(len(content), named)
    assert (await curl.patch(place, 0, content[:20_000])).status == 204
    code, _ = await command(curl, file)
    assert code == 0
    states = {one["id"]: one["state"] for one in (await curl.get(UPLOADS))["items"]}
    ids = [path.rpartition("/")[2] for path in (other, place)]
    assert states == {ids[0]: "receiving", ids[1]: "done"}
