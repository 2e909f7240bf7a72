"""What is built can be verified and opened, byte for byte, in flat memory."""

import hashlib
import stat
import subprocess
import sys
from pathlib import Path

import cbor2
import pytest

from tensorguard.tgsp import manifest as manifests
from tensorguard.tgsp.errors import (
    OutOfSpace,
    OutputExists,
    SealedAtRest,
    SourceChanged,
    SourceError,
)
from tensorguard.tgsp.manifest import Target
from tensorguard.tgsp.pipeline import BLOCK_BYTES
from tensorguard.tgsp.reader import verify
from tests.unit.tgsp.builders import CONTENT, NOW, NOW_S, Forge

SIZES = [0, 1, 16383, 16384, 16385, 32768, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 16384]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_comes_back(forge: Forge, size: int) -> None:
    content = hashlib.shake_128(b"model").digest(size)
    source = forge.folder / "source"
    source.write_bytes(content)
    built = forge.build(source)
    opened = forge.open()
    assert (forge.out / "source").read_bytes() == content
    assert opened.digest == built.digest == hashlib.sha256(forge.read()[0].manifest_bytes).digest()
    assert built.size_bytes == forge.path.stat().st_size
    assert built.size_bytes - size <= size * 0.002 + 4096
    assert forge.list_leftovers() == ["opened"]


def test_a_folder_comes_back_with_its_folders_and_empty_files(forge: Forge) -> None:
    source = forge.folder / "source"
    contents = {
        "a/b/c.bin": b"c" * 70_000,
        "a/empty": b"",
        "a.txt": b"text",
        "z/größe.txt": b"z",
        "zz-empty": b"",
        "big.bin": bytes(BLOCK_BYTES + 5),
    }
    for name, content in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    built = forge.build(source)
    forge.open()
    found = {
        path.relative_to(forge.out).as_posix(): path.read_bytes()
        for path in forge.out.rglob("*")
        if path.is_file()
    }
    assert found == contents
    assert [entry.path for entry in built.manifest.files] == sorted(contents)


def test_opened_files_are_for_their_owner_only(forge: Forge) -> None:
    forge.build()
    forge.open()
    assert stat.S_IMODE((forge.out / "model.onnx").stat().st_mode) == 0o600
    assert stat.S_IMODE(forge.out.stat().st_mode) == 0o700


def test_everything_in_the_manifest_survives(forge: Forge) -> None:
    target = Target(fleets=("hospital-a",), selector="gpu=true", hardware=("cuda", "cpu"))
    provenance = {"epsilon": "1.5", "dataset": b"\1" * 32, "runs": [1, -2, True, {"x": "y"}]}
    built = forge.build(
        not_after=NOW_S + 9,
        target=target,
        min_agent="1.0.0-rc.1",
        policy={"at_rest": "sealed"},
        provenance=provenance,
    )
    package = verify(forge.path, forge.publishers, NOW, digest=built.digest)
    assert package.manifest == built.manifest
    assert package.manifest.provenance == provenance
    assert package.manifest.target == target
    assert manifests.decode(manifests.encode(built.manifest)) == built.manifest
    assert any("seq" in left_out for left_out in package.unchecked)


def test_the_bytes_are_those_of_the_format(forge: Forge) -> None:
    """A second reading of the format, with cbor2 and arithmetic only."""
    forge.build()
    data = forge.path.read_bytes()
    assert data[:8] == bytes([0x89, 0x54, 0x47, 0x53, 0x50, 0x0D, 0x0A, 0x1A])
    sections, at = [], 8
    for _ in range(3):
        length = int.from_bytes(data[at : at + 4], "big")
        sections.append(cbor2.loads(data[at + 4 : at + 4 + length]))
        at += 4 + length
    length = int.from_bytes(data[at : at + 8], "big")
    payload = data[at + 8 :]
    manifest, sigs, grants = sections
    assert len(payload) == length == manifest["payload"]["ciphertext_size"]
    assert length == len(CONTENT) + 56 + 16 * (len(CONTENT) // 16384 + 1)
    assert manifest["payload"]["sha256"] == hashlib.sha256(payload).digest()
    assert manifest["files"] == [
        {
            "path": "model.onnx",
            "size": len(CONTENT),
            "offset": 0,
            "sha256": hashlib.sha256(CONTENT).digest(),
        }
    ]
    assert set(manifest) == {
        *("v", "package_id", "name", "version", "seq", "created", "not_before", "not_after"),
        *("target", "min_agent", "policy", "provenance", "files", "payload"),
    }
    raw_publisher = forge.publisher.public_key().public_bytes_raw()
    raw_recipient = forge.recipient.public_key().public_bytes_raw()
    assert [entry["kid"] for entry in sigs] == [hashlib.sha256(raw_publisher).digest()]
    assert [entry["kid"] for entry in grants] == [hashlib.sha256(raw_recipient).digest()]
    assert len(grants[0]["sealed"]) == 80


def test_progress_reaches_the_whole(forge: Forge) -> None:
    seen: list[tuple[int, int]] = []
    forge.build(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    seen.clear()
    forge.open(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == forge.read()[0].payload_length


def test_a_sealed_package_opens_only_into_memory_backed_storage(forge: Forge) -> None:
    forge.build(policy={"at_rest": "sealed"})
    with pytest.raises(SealedAtRest):
        forge.open()
    forge.open(volatile=True)
    assert (forge.out / "model.onnx").read_bytes() == CONTENT


def test_a_folder_with_something_in_it_is_not_touched(forge: Forge) -> None:
    forge.build()
    forge.out.mkdir()
    (forge.out / "mine").write_text("mine")
    with pytest.raises(OutputExists):
        forge.open()
    assert [entry.name for entry in forge.out.iterdir()] == ["mine"]
    assert forge.list_leftovers() == ["opened"]


def test_what_a_killed_run_left_is_removed_by_the_next(forge: Forge) -> None:
    forge.build()
    (forge.folder / "opened.0123456789ab.partial").mkdir()
    (forge.folder / "opened.0123456789ab.partial" / "half").write_text("half")
    (forge.folder / "opened.not-ours.partial").mkdir()
    forge.open()
    assert forge.list_leftovers() == ["opened", "opened.not-ours.partial"]


def test_a_source_that_changes_meanwhile_is_refused(forge: Forge) -> None:
    source = forge.folder / "source"
    source.write_bytes(bytes(2 * BLOCK_BYTES))

    def grow(done: int, total: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(SourceChanged, match="longer"):
        forge.build(source, progress=grow)

    with pytest.raises(SourceChanged, match="shorter"):
        forge.build(source, progress=lambda done, total: source.write_bytes(b""))
    assert not forge.path.exists()
    assert forge.list_leftovers() == []


def test_an_empty_folder_is_no_source(forge: Forge) -> None:
    source = forge.folder / "source"
    source.mkdir()
    with pytest.raises(SourceError, match="holds no file"):
        forge.build(source)


def test_a_package_inside_its_own_source_is_refused(forge: Forge) -> None:
    with pytest.raises(SourceError, match="inside its own source"):
        forge.build(forge.folder)


_LIMITED = """
import resource, sys
from pathlib import Path
from tests.unit.tgsp.builders import Forge
from tensorguard.tgsp.errors import OutOfSpace

forge = Forge(Path(sys.argv[1]))
source = forge.folder / "source"
source.write_bytes(bytes(3_000_000))
forge.build(source)
whole = forge.path.read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
for step in (forge.open, lambda: forge.build(source)):
    try:
        step()
    except OutOfSpace as error:
        print(error.code, forge.list_leftovers(), forge.path.read_bytes() == whole)
"""


def test_a_write_that_runs_out_of_space_leaves_nothing(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert ran.stdout.splitlines() == [f"{OutOfSpace.code} [] True"] * 2, ran.stderr
