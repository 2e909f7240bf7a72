"""`tensorguard packages upload`, against an api on a socket."""

import asyncio
import base64
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tensorguard.cli.tus_upload import Platform as Remote
from tensorguard.cli.tus_upload import UploadFailed
from tests.integration.deployments.builders import Platform
from tests.integration.uploads.curl import UPLOADS, Curl
from tests.integration.uploads.store import Store
from tests.patience import PATIENCE_S


async def command(curl: Curl, file: Path) -> tuple[int, dict[str, Any]]:
    """Run it; return its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tensorguard.cli", "packages", "upload", str(file), "--json"),
        env=os.environ | {"TG_API_KEY": curl.key, "TG_URL": curl.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, json.loads(out or error)


@pytest.mark.parametrize("store", ["files"], indirect=True)
async def test_it_goes_on_where_another_was_cut_and_says_why_a_package_is_refused(
    platform: Platform, curl: Curl, store: Store
) -> None:
    file = platform.build_package()
    content = await asyncio.to_thread(file.read_bytes)
    fingerprint = hashlib.sha256(content[: 1024 * 1024]).hexdigest()
    named = f"Upload-Metadata: fingerprint {base64.b64encode(fingerprint.encode()).decode()}"
    other = await curl.begin(len(content))
    place = await curl.begin(len(content), named)
    assert (await curl.patch(place, 0, content[:20_000])).status == 204
    code, package = await command(curl, file)
    assert (code, package["name"]) == (0, "model")
    assert list(store.kept().values()) == [content]
    states = {one["id"]: one["state"] for one in (await curl.get(UPLOADS))["items"]}
    ids = [path.rpartition("/")[2] for path in (other, place)]
    assert states == {ids[0]: "receiving", ids[1]: "done"}
    await asyncio.to_thread(file.write_bytes, content[:-1] + bytes([content[-1] ^ 1]))
    code, told = await command(curl, file)
    assert (code, told["error"]["code"]) == (1, "ciphertext-mismatch")


def test_a_key_does_not_go_over_the_network_in_the_clear() -> None:
    with pytest.raises(UploadFailed, match="is not https"):
        Remote("http://platform.example", "tg_key", None)
