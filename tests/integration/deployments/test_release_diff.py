"""What changes between two releases, as their signed manifests have it."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

from tensorguard.store.packages import Release
from tensorguard.tgsp.builder import build
from tests.integration.api.clients import Api
from tests.integration.deployments.builders import Platform, target


async def release(platform: Platform, files: dict[str, bytes], **settings: Any) -> Release:
    """Release a folder with these files."""
    seq = settings["seq"]
    folder = platform.folder / f"source-{seq}"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    out = platform.folder / f"{seq}.tgsp"
    created = int(platform.clock.now.timestamp())
    known: dict[str, Any] = {
        "name": "model",
        "version": f"1.{seq}.0",
        "publisher": platform.publisher,
        "recipient": platform.keyring.recipient_key.public_key(),
        "created": created,
        "not_before": created,
    }
    await asyncio.to_thread(lambda: build(folder, out, **(known | settings)))
    return await platform.release_of(Path(out))


async def test_a_diff_names_every_field_and_file_that_is_another(
    platform: Platform, api: Api
) -> None:
    old = await release(
        platform,
        {"model.onnx": b"a" * 100, "labels.txt": b"yes", "gone.txt": b"1234"},
        seq=1,
        provenance={"commit": "abc"},
    )
    new = await release(
        platform,
        {"model.onnx": b"b" * 150, "labels.txt": b"yes", "new.txt": b"12"},
        seq=2,
        target=target(selector="gpu=true"),
        policy={"at_rest": "sealed"},
        provenance={"commit": "def"},
    )
    url = f"/api/v1/releases/{old.id}/diff"
    found = (await api.admin.get(f"{url}/{new.id}")).json()
    fields = {one["path"]: (one["before"], one["after"]) for one in found["fields"]}
    assert fields == {
        "payload.size": (107, 155),
        "version": ("1.1.0", "1.2.0"),
        "seq": (1, 2),
        "target.selector": ("", "gpu=true"),
        "policy.at_rest": (None, "sealed"),
        "provenance.commit": ("abc", "def"),
    }
    files = [
        (one["path"], one["change"], one["before_bytes"], one["after_bytes"])
        for one in found["files"]
    ]
    assert files == [
        ("gone.txt", "removed", 4, None),
        ("model.onnx", "changed", 100, 150),
        ("new.txt", "added", None, 2),
    ]
    assert found["unchanged_files"] == 1
    same = (await api.admin.get(f"{url}/{old.id}")).json()
    assert same == {"fields": [], "files": [], "unchanged_files": 3}
    assert (await api.admin.get(f"{url}/{uuid4()}")).status_code == 404
