"""Sources and places that are not as they should be: a clear refusal, and nothing half-written."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tensorguard.tgsp.builder import MAX_FILES
from tensorguard.tgsp.errors import OutOfSpace, SourceChanged, TgspError
from tensorguard.tgsp.pipeline import BLOCK_BYTES
from tensorguard.tgsp.reader import verify
from tests.unit.tgsp.builders import NOW, Forge
from tests.unit.tgsp.refusals import refusal

Report = Callable[[str, object], None]
GB = 10**9


def refusal_to_build(forge: Forge, source: Path) -> str:
    with pytest.raises(TgspError) as caught:
        forge.build(source)
    assert not forge.path.exists()
    assert [name for name in forge.list_leftovers() if name.endswith(".partial")] == []
    return caught.value.code


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with 4 MiB, where this user may mount one."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_file_of_0_bytes_is_no_package_but_may_be_in_one(forge: Forge) -> None:
    forge.path.write_bytes(b"")
    assert refusal(forge) == "not-a-package"
    empty = forge.folder / "source"
    empty.write_bytes(b"")
    forge.build(empty)
    forge.open()
    assert (forge.out / "source").read_bytes() == b""


def test_a_package_too_large_for_the_disk_is_refused_before_it_is_begun(
    forge: Forge, record_property: Report
) -> None:
    """A true package of 100 GB and more, by the true publisher; its payload is a hole."""
    size = max(100 * GB, 2 * shutil.disk_usage(forge.folder).free)
    forge.build()
    payload = size + 56 + 16 * (size // 16384 + 1)

    def claim(fields: dict[str, dict[str, int]]) -> None:
        fields["payload"] |= {"size": size, "ciphertext_size": payload}
        fields["files"][0]["size"] = size

    forge.change_manifest(claim)
    header, _ = forge.read()
    with forge.path.open("r+b") as file:
        file.seek(header.payload_offset - 8)
        file.write(payload.to_bytes(8, "big"))
        try:
            file.truncate(header.payload_offset + payload)
        except OSError:
            pytest.skip("the file system has no files of that size")
    dek = bytes(32)
    begin = time.monotonic()
    code = refusal(forge, unwrap=lambda _: dek)
    record_property("TGSP attack", f"a package of {size // GB} GB → {code}")
    assert code == "out-of-space"
    assert time.monotonic() - begin < 10


def test_a_source_too_large_for_the_disk_is_refused_before_it_is_read(forge: Forge) -> None:
    source = forge.folder / "source"
    with source.open("wb") as file:
        try:
            file.truncate(max(100 * GB, 2 * shutil.disk_usage(forge.folder).free))
        except OSError:
            pytest.skip("the file system has no files of that size")
    assert refusal_to_build(forge, source) == "out-of-space"


def make_files(folder: Path, count: int) -> None:
    """Make many files, a thousand in each folder; one is made, the rest are links to it."""
    folder.mkdir()
    first = folder / "first"
    first.touch()
    for number in range(count):
        if number % 1000 == 0:
            inner = folder / f"{number:07}"
            inner.mkdir()
            first = inner / "first"
            first.touch()
        os.link(first, inner / f"{number}")


def test_too_many_files_are_refused_early(forge: Forge) -> None:
    source = forge.folder / "source"
    make_files(source, MAX_FILES + 1)
    assert refusal_to_build(forge, source) == "too-many-files"


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_a_million_files_are_refused_as_early(forge: Forge) -> None:
    source = forge.folder / "source"
    make_files(source, 1_000_000)
    begin = time.monotonic()
    assert refusal_to_build(forge, source) == "too-many-files"
    assert time.monotonic() - begin < 30
    shutil.rmtree(source)


def test_more_files_than_a_manifest_holds_are_refused(forge: Forge) -> None:
    source = forge.folder / "source"
    source.mkdir()
    for number in range(5_000):
        (source / f"{number}{'x' * 200}").touch()
    assert refusal_to_build(forge, source) == "section-too-large"


@pytest.mark.parametrize("kind", ["link", "folder link", "dangling link", "pipe", "device"])
def test_what_is_no_regular_file_is_no_source(forge: Forge, kind: str) -> None:
    source = forge.folder / "source"
    source.mkdir()
    (source / "good").write_bytes(b"good")
    odd = source / "odd"
    match kind:
        case "link":
            odd.symlink_to(source / "good")
        case "folder link":
            odd.symlink_to("/etc", target_is_directory=True)
        case "dangling link":
            odd.symlink_to("/no/such/place")
        case "pipe":
            os.mkfifo(odd)
        case _:
            odd = Path("/dev/zero")
    assert refusal_to_build(forge, odd if kind == "device" else source) == "source-refused"


def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(forge: Forge) -> None:
    source = forge.folder / "source"
    source.mkdir()
    (source / "a").write_bytes(bytes(2 * BLOCK_BYTES))
    (source / "b").write_bytes(b"b")

    def swap(done: int, total: int) -> None:
        if not (source / "b").is_symlink():
            (source / "b").unlink()
            (source / "b").symlink_to("/etc/hostname")

    with pytest.raises(SourceChanged):
        forge.build(source, progress=swap)
    assert not forge.path.exists()


def test_a_full_disk_leaves_nothing_and_the_old_package_as_it_was(
    forge: Forge, small_disk: Path, record_property: Report
) -> None:
    source = forge.folder / "source"
    source.write_bytes(bytes(3 * 1024 * 1024))
    forge.build(source)
    whole = forge.path.read_bytes()
    forge.path = small_disk / "model.tgsp"
    forge.path.write_bytes(b"old")
    fill = small_disk / "fill"

    def fill_up(done: int, total: int) -> None:
        if not fill.exists():
            fill.write_bytes(bytes(3 * 1024 * 1024 - 200_000))

    with pytest.raises(OutOfSpace):
        forge.build(source, progress=fill_up)
    assert forge.path.read_bytes() == b"old"
    fill.unlink()
    forge.path = forge.folder / "model.tgsp"
    assert forge.path.read_bytes() == whole
    forge.out = small_disk / "opened"
    code = refusal(forge, progress=fill_up)
    record_property("TGSP attack", f"disk full in the middle of opening → {code}")
    assert code == "out-of-space"
    assert sorted(path.name for path in small_disk.iterdir()) == ["fill", "model.tgsp"]


def test_a_disk_that_is_already_full_is_told_at_once(forge: Forge, small_disk: Path) -> None:
    source = forge.folder / "source"
    source.write_bytes(bytes(5 * 1024 * 1024))
    forge.build(source)
    forge.out = small_disk / "opened"
    assert refusal(forge) == "out-of-space"
    forge.path = small_disk / "model.tgsp"
    assert refusal_to_build(forge, source) == "out-of-space"
    assert list(small_disk.iterdir()) == []


_MEASURED = """
import sys
from pathlib import Path
from tests.unit.tgsp.builders import Forge, NOW
from tensorguard.tgsp.reader import verify

def peak_kib():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

forge = Forge(Path(sys.argv[1]))
before = peak_kib()
source = forge.folder / "source"
with source.open("wb") as file:
    for _ in range(int(sys.argv[2])):
        file.write(bytes(1024 * 1024))
before = peak_kib()
forge.build(source); verify(forge.path, forge.publishers, NOW); forge.open()
print(peak_kib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    "size_mib", [8, 128, pytest.param(1024, marks=[pytest.mark.deep, pytest.mark.timeout(300)])]
)
def test_memory_is_flat_at_any_size(tmp_path: Path, size_mib: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path), str(size_mib)],
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert int(ran.stdout) < 40 * 1024, "KiB; the promise is 64 MiB"


def test_verify_reads_a_package_that_it_cannot_open(forge: Forge) -> None:
    forge.build(policy={"at_rest": "sealed"})
    assert verify(forge.path, forge.publishers, NOW).manifest.at_rest == "sealed"
