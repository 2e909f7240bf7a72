"""A manifest that breaks a rule is refused, even when the true publisher signed it."""

from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from tensorguard.tgsp.errors import TgspError
from tests.unit.tgsp.builders import NOW_S, Forge
from tests.unit.tgsp.refusals import refusal, refusal_to_verify


def _with_bytes(forge: Forge, change: Callable[[bytes], bytes]) -> None:
    header, _ = forge.read()
    changed = change(header.manifest_bytes)
    assert changed != header.manifest_bytes
    forge.write(manifest=changed, resign=True)


def _longer_integer(data: bytes) -> bytes:
    return data.replace(b"\x61v\x01", b"\x61v\x18\x01")


def _indefinite(data: bytes) -> bytes:
    return b"\xbf" + data[1:] + b"\xff"


def _duplicate_key(data: bytes) -> bytes:
    return bytes([data[0] + 1]) + b"\x61v\x01" + data[1:]


def _other_order(data: bytes) -> bytes:
    fields = cbor2.loads(data)
    return cbor2.dumps(dict(reversed(fields.items())))


def _tagged(data: bytes) -> bytes:
    return data.replace(b"\x61v\x01", b"\x61v\xc2\x41\x01")


@pytest.mark.parametrize(
    "change",
    [
        _longer_integer,
        _indefinite,
        _duplicate_key,
        _other_order,
        _tagged,
        lambda data: data + b"\0",
        lambda data: data[:-1],
        lambda data: b"\xd9\xd9\xf7" + data,
        lambda data: b"",
        lambda data: b"\x81" * 2000 + b"\x01",
        lambda data: b"\xd8\x1c\x81\xd8\x1d\x00",  # a list that holds itself
    ],
)
def test_a_manifest_in_another_form_is_refused(
    forge: Forge, change: Callable[[bytes], bytes]
) -> None:
    forge.build()
    _with_bytes(forge, change)
    assert refusal(forge) == refusal_to_verify(forge) == "not-canonical"


def _set(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(fields: Any) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (_set("v", to=2), "bad-manifest"),
        (_set("v", to=True), "bad-manifest"),
        (_set("seq", to=0), "bad-manifest"),
        (_set("seq", to=1.0), "bad-manifest"),
        (_set("seq", to=-1), "bad-manifest"),
        (_set("created", to=cbor2.undefined), "bad-manifest"),
        (_set("created", to=None), "bad-manifest"),
        (_set("name", to="Model"), "bad-manifest"),
        (_set("name", to="model\n"), "bad-manifest"),
        (_set("name", to="m" * 65), "bad-manifest"),
        (_set("version", to="1.2"), "bad-manifest"),
        (_set("version", to="1.2.3\n"), "bad-manifest"),
        (_set("min_agent", to="new"), "bad-manifest"),
        (_set("package_id", to=bytes(15)), "bad-manifest"),
        (_set("package_id", to="0123456789abcdef"), "bad-manifest"),
        (_set("not_after", to=NOW_S - 1), "bad-manifest"),
        (_set("surprise", to=1), "bad-manifest"),
        (lambda fields: fields.pop("min_agent"), "bad-manifest"),
        (lambda fields: fields["target"].pop("selector"), "bad-manifest"),
        (lambda fields: fields["payload"].pop("alg"), "bad-manifest"),
        (_set("target", "hardware", to=["abacus"]), "bad-manifest"),
        (_set("payload", "alg", to="cobblestone-128"), "unknown-payload-alg"),
        (_set("payload", "alg", to="none"), "unknown-payload-alg"),
        (_set("payload", "alg", to=1), "bad-manifest"),
        (_set("payload", "size", to=1), "bad-manifest"),
        (_set("payload", "ciphertext_size", to=1), "bad-manifest"),
        (_set("payload", "sha256", to=bytes(31)), "bad-manifest"),
        (_set("files", 0, "offset", to=1), "bad-manifest"),
        (_set("files", 0, "size", to=1), "bad-manifest"),
        (_set("files", 0, "mode", to=0o777), "bad-manifest"),
        (_set("provenance", to={"epsilon": 1.5}), "bad-manifest"),
        (_set("provenance", to={1: "x"}), "bad-manifest"),
        (_set("provenance", to={"x": "y" * 256 * 1024}), "bad-manifest"),
        (_set("policy", to={"at_rest": "burnt"}), "unknown-policy"),
        (_set("policy", to={"phone_home": True}), "unknown-policy"),
    ],
)
def test_a_signed_manifest_that_breaks_a_rule_is_refused(
    forge: Forge, edit: Callable[[dict[str, Any]], object], code: str
) -> None:
    forge.build()
    forge.change_manifest(edit)
    assert refusal(forge) == refusal_to_verify(forge) == code


HOSTILE_PATHS = [
    "../evil",
    "a/../../evil",
    "a/..",
    "..",
    ".",
    "./a",
    "/etc/passwd",
    "",
    "a//b",
    "a/",
    "a\\b",
    "..\\evil",
    "nul\0",
    "line\nbreak",
    "escape\x1b[2J",
    "n" * 256,
    "/".join(["deep"] * 300),
]


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_a_hostile_path_is_refused(forge: Forge, path: str) -> None:
    forge.build()
    forge.change_manifest(_set("files", 0, "path", to=path))
    assert refusal(forge) == refusal_to_verify(forge) == "bad-path"


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("Model", "model", "bad-path"),
        ("STRASSE", "straße", "bad-path"),
        ("e\u0301", "\u00e9", "bad-path"),
        ("A/x", "a/y", "bad-path"),
        ("a", "a/b", "bad-path"),
        ("A", "a/b", "bad-path"),
        ("same", "same", "bad-path"),
        ("b", "a", "bad-manifest"),  # not sorted
    ],
)
def test_colliding_paths_are_refused(forge: Forge, first: str, second: str, code: str) -> None:
    source = forge.folder / "source"
    source.mkdir()
    (source / "1").write_bytes(b"1")
    (source / "2").write_bytes(b"2")
    forge.build(source)

    def rename(fields: dict[str, Any]) -> None:
        fields["files"][0]["path"], fields["files"][1]["path"] = first, second

    forge.change_manifest(rename)
    assert refusal(forge) == code


def test_the_builder_refuses_what_an_opener_would(forge: Forge) -> None:
    source = forge.folder / "source"
    source.mkdir()
    (source / "a\\b").write_bytes(b"")
    with pytest.raises(TgspError) as caught:
        forge.build(source)
    assert caught.value.code == "bad-path"
    with pytest.raises(TgspError) as caught:
        forge.build(provenance={"epsilon": 1.5})
    assert caught.value.code == "bad-manifest"
    assert not forge.path.exists()
