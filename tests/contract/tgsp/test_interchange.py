"""Two programs that share no code exchange packages, and refuse the published ones alike."""

import ast
import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorguard import tgsp
from tensorguard.protocol.envelope import pae
from tensorguard.tgsp.manifest import MANIFEST_TYPE, compute_context
from tests.contract.tgsp import independent_reader as reader
from tests.contract.tgsp.independent_writer import write

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs/vectors/tgsp"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())
PACKAGES = VECTORS["packages"]
GOOD = [one for one in PACKAGES if "digest" in one]
REFUSED = [one for one in PACKAGES if "code" in one]
PUBLISHER = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["keys"]["publisher_seed"]))
RECIPIENT = X25519PrivateKey.from_private_bytes(bytes.fromhex(VECTORS["keys"]["recipient_private"]))


def held() -> dict[bytes, Ed25519PublicKey]:
    public = PUBLISHER.public_key()
    return {hashlib.sha256(public.public_bytes_raw()).digest(): public}


def read(data: bytes, opening: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Open with the independent reader."""
    return reader.read(data, held(), RECIPIENT, **{"now": VECTORS["now"], **(opening or {})})


def open_ours(path: Path, out: Path, opening: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Open with tensorguard.tgsp."""
    given = dict(opening or {})
    now = datetime.fromtimestamp(given.get("now", VECTORS["now"]), UTC)
    tgsp.open_package(
        path,
        out,
        publishers=[tgsp.PublisherKey(PUBLISHER.public_key())],
        now=now,
        unwrap=tgsp.unwrap_embedded(RECIPIENT, now),
        fleet=given.get("fleet"),
        min_seq=tgsp.SeqFloor.at_least(given.get("min_seq", 1)),
        hardware=["cpu"],
    )
    found = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


def named(vectors: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("vector", vectors, ids=[one["name"] for one in vectors])


@named(GOOD)
def test_both_open_a_published_package(vector: dict[str, Any], tmp_path: Path) -> None:
    path = FOLDER / vector["file"]
    ours = open_ours(path, tmp_path / "opened", vector["opening"])
    assert ours == read(path.read_bytes(), vector["opening"])
    assert {name: hashlib.sha256(data).hexdigest() for name, data in ours.items()} == vector[
        "files"
    ]


@named(GOOD)
def test_the_values_on_the_way_are_the_published_ones(vector: dict[str, Any]) -> None:
    path = FOLDER / vector["file"]
    with path.open("rb") as file:
        header = tgsp.read_header(file, path.stat().st_size)
    now = datetime.fromtimestamp(VECTORS["now"], UTC)
    assert header.digest.hex() == vector["digest"]
    assert compute_context(header.manifest).hex() == vector["context"]
    assert tgsp.unwrap_embedded(RECIPIENT, now)(header).hex() == vector["dek"]
    signed = pae(MANIFEST_TYPE, header.manifest_bytes)
    assert hashlib.sha256(signed).hexdigest() == vector["pae_sha256"]
    kid = bytes.fromhex(vector["grant_info"])[-40:-8]
    assert kid == tgsp.compute_kid(RECIPIENT.public_key())


@named(REFUSED)
def test_both_refuse_a_published_package_alike(vector: dict[str, Any], tmp_path: Path) -> None:
    path = FOLDER / vector["file"]
    with pytest.raises(tgsp.TgspError) as ours:
        open_ours(path, tmp_path / "opened", vector["opening"])
    assert ours.value.code == vector["code"]
    with pytest.raises(reader.Refused, match=f"^{vector['code']}$"):
        read(path.read_bytes(), vector["opening"])


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 200_000])
def test_what_the_other_writes_is_opened_by_ours(size: int, tmp_path: Path) -> None:
    files = {"model.onnx": hashlib.shake_128(b"m").digest(size), "sub/labels.txt": b"yes\nno\n"}
    path = tmp_path / "theirs.tgsp"
    path.write_bytes(write(files, PUBLISHER, RECIPIENT.public_key(), provenance={"ε": "1.5"}))
    assert open_ours(path, tmp_path / "opened") == files


names = st.from_regex(r"[a-zA-Z0-9 _.é-]{1,20}", fullmatch=True).filter(lambda n: n.strip("."))
trees = st.dictionaries(names, st.binary(max_size=40_000), min_size=1, max_size=6).filter(
    lambda files: len({name.casefold() for name in files}) == len(files)
)


@settings(max_examples=25)
@given(files=trees)
def test_any_files_go_from_ours_to_the_other_and_back(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("interchange")
    source, path = folder / "source", folder / "ours.tgsp"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    facts: dict[str, Any] = {"name": "model", "version": "1.0.0", "seq": 1, "created": 0}
    tgsp.build(
        source, path, publisher=PUBLISHER, recipient=RECIPIENT.public_key(), not_before=0, **facts
    )
    assert read(path.read_bytes()) == files
    path.write_bytes(write(files, PUBLISHER, RECIPIENT.public_key()))
    assert open_ours(path, folder / "opened") == files


@pytest.mark.parametrize("name", ["independent_reader.py", "independent_writer.py"])
def test_the_other_program_shares_no_code_with_ours(name: str) -> None:
    tree = ast.parse((Path(__file__).parent / name).read_text())
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported.append(node.module or "")
        elif isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
    assert not [module for module in imported if module.startswith(("tensorguard", "agent"))]


_EXAMPLE = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tensorguard import tgsp

tgsp.write_key_pair(Path("publisher"), Ed25519PrivateKey.generate())
tgsp.write_key_pair(Path("recipient"), X25519PrivateKey.generate())
Path("model.onnx").write_bytes(b"weights")
page = Path(sys.argv[1]).read_text()
exec(page.partition("<!-- example -->\\n```python\\n")[2].partition("```")[0])
assert (opened.directory / "model.onnx").read_bytes() == b"weights"
server = "fastapi starlette sqlalchemy psycopg paho amqtt alembic uvicorn boto3 nats"
print([name for name in server.split() if name in sys.modules])
"""


def test_the_example_on_the_page_runs_without_anything_of_the_server(tmp_path: Path) -> None:
    page = ROOT / "docs/tgsp.md"
    ran = subprocess.run(
        [sys.executable, "-c", _EXAMPLE, str(page)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "[]"
    example = page.read_text().partition("<!-- example -->")[2].partition("```\n")[0]
    assert len([line for line in example.splitlines()[2:] if line]) <= 12


def test_the_page_names_every_code() -> None:
    page = (ROOT / "docs/tgsp.md").read_text()
    named_codes = {one["code"] for one in REFUSED}
    assert [code for code in sorted(named_codes) if f"`{code}`" not in page] == []
