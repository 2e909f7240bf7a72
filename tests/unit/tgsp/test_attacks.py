"""Every attack that the format names ends in its own refusal, and leaves nothing behind."""

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from cryptography.cobblestone import Cobblestone256Encryptor
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tensorguard.tgsp.errors import TgspError
from tensorguard.tgsp.grants import GRANT_ALG, seal_grant
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.manifest import Target, compute_context
from tensorguard.tgsp.opener import unwrap_detached, unwrap_embedded
from tensorguard.tgsp.reader import verify
from tensorguard.tgsp.signing import PublisherKey
from tensorguard.tgsp.target import SeqFloor
from tests.unit.tgsp.builders import NOW, NOW_S, Forge

CHUNK = 16384 + 16


def refusal(forge: Forge, **changes: Any) -> str:
    """Open the package, which must be refused without a trace, and give the code."""
    with pytest.raises(TgspError) as caught:
        forge.open(**changes)
    assert not forge.out.exists()
    assert not [name for name in forge.list_leftovers() if name.endswith(".partial")]
    assert caught.value.message
    assert caught.value.hint
    return caught.value.code


def refusal_to_verify(forge: Forge) -> str:
    with pytest.raises(TgspError) as caught:
        verify(forge.path, forge.publishers, NOW)
    return caught.value.code


# Damage to the container


@pytest.mark.parametrize("kept", [0, 7, 8, 10, 12, 60])
def test_a_file_cut_inside_its_header_is_refused(forge: Forge, kept: int) -> None:
    forge.build()
    forge.path.write_bytes(forge.path.read_bytes()[:kept])
    assert refusal(forge) == ("not-a-package" if kept < 8 else "truncated")


@pytest.mark.parametrize("cut", [1, 8000, CHUNK])
def test_a_cut_payload_is_refused(forge: Forge, cut: int) -> None:
    forge.build()
    forge.path.write_bytes(forge.path.read_bytes()[:-cut])
    assert refusal(forge) == refusal_to_verify(forge) == "truncated"


def test_a_header_alone_is_refused(forge: Forge) -> None:
    forge.build()
    header, _ = forge.read()
    forge.path.write_bytes(forge.path.read_bytes()[: header.payload_offset])
    assert refusal(forge) == "truncated"


def test_an_appended_byte_is_refused(forge: Forge) -> None:
    forge.build()
    forge.path.write_bytes(forge.path.read_bytes() + b"\0")
    assert refusal(forge) == refusal_to_verify(forge) == "trailing-bytes"


@pytest.mark.parametrize("section", [0, 1, 2])
def test_a_section_that_claims_too_much_is_refused_unread(forge: Forge, section: int) -> None:
    forge.build()
    header, _ = forge.read()
    at = 8
    for earlier in (header.manifest_bytes, header.sigs_bytes)[:section]:
        at += 4 + len(earlier)
    data = bytearray(forge.path.read_bytes())
    data[at : at + 4] = b"\xff\xff\xff\xff"
    forge.path.write_bytes(data)
    assert refusal(forge) == "section-too-large"
    data[at : at + 4] = b"\x00\x00\xff\xff"  # within the bounds, beyond the file
    forge.path.write_bytes(data)
    assert refusal(forge) == "truncated"


def test_a_payload_length_beyond_the_file_is_refused(forge: Forge) -> None:
    forge.build()
    header, _ = forge.read()
    data = bytearray(forge.path.read_bytes())
    data[header.payload_offset - 8 : header.payload_offset] = b"\xff" * 8
    forge.path.write_bytes(data)
    assert refusal(forge) == "truncated"


# Changes to the payload, with lengths that are right again


def _swap_chunks(payload: bytes) -> bytes:
    head, first, second = payload[:56], payload[56 : 56 + CHUNK], payload[56 + CHUNK :][:CHUNK]
    return head + second + first + payload[56 + 2 * CHUNK :]


def _repeat_chunk(payload: bytes) -> bytes:
    return payload[: 56 + CHUNK] + payload[56 : 56 + CHUNK] + payload[56 + 2 * CHUNK :]


def _flip_last(payload: bytes) -> bytes:
    return payload[:-1] + bytes([payload[-1] ^ 1])


@pytest.mark.parametrize("change", [_swap_chunks, _repeat_chunk, _flip_last])
def test_a_changed_payload_of_the_same_length_is_refused(
    forge: Forge, change: Callable[[bytes], bytes]
) -> None:
    forge.build()
    _, payload = forge.read()
    forge.write(payload=change(payload))
    assert refusal(forge) == "payload-refused"
    assert refusal_to_verify(forge) == "ciphertext-mismatch"


@pytest.mark.parametrize("change", [lambda p: p[:-CHUNK], lambda p: p + p[-CHUNK:]])
def test_chunks_taken_or_added_are_refused(forge: Forge, change: Callable[[bytes], bytes]) -> None:
    forge.build()
    _, payload = forge.read()
    forge.write(payload=change(payload))
    assert refusal(forge) == refusal_to_verify(forge) == "length-mismatch"


def test_a_payload_from_another_package_is_refused(forge: Forge) -> None:
    forge.build()
    _, other = forge.read()
    forge.build()
    forge.write(payload=other)
    assert refusal(forge) == "payload-refused"
    assert refusal_to_verify(forge) == "ciphertext-mismatch"


def test_other_content_under_the_true_key_is_refused(forge: Forge) -> None:
    """Who holds a grant holds the DEK, and could encrypt what the publisher never signed."""
    forge.build()
    header, payload = forge.read()
    dek = unwrap_embedded(forge.recipient, NOW)(header)
    encryptor = Cobblestone256Encryptor(dek, compute_context(header.manifest))
    forged = encryptor.update(bytes(header.manifest.payload.size)) + encryptor.finalize()
    assert len(forged) == len(payload)
    forge.write(payload=forged)
    assert refusal(forge) == refusal_to_verify(forge) == "ciphertext-mismatch"


def test_a_file_whose_digest_the_publisher_got_wrong_is_refused(forge: Forge) -> None:
    built = forge.build()
    forge.write_from_scratch(built.manifest, bytes(built.manifest.payload.size))
    verify(forge.path, forge.publishers, NOW)
    assert refusal(forge) == "file-mismatch"


def test_a_payload_moved_under_another_manifest_is_refused(forge: Forge) -> None:
    """The context binds name, version, target … to the encryption, even for the publisher."""
    forge.build()
    dek = unwrap_embedded(forge.recipient, NOW)(forge.read()[0])
    forge.change_manifest(lambda fields: fields.update(version="9.9.9"))
    verify(forge.path, forge.publishers, NOW)
    assert refusal(forge, unwrap=lambda _: dek) == "payload-refused"


# Signatures


def test_an_edited_manifest_is_refused(forge: Forge) -> None:
    forge.build()
    header, _ = forge.read()
    edited = header.manifest_bytes.replace(b"1.2.3", b"1.2.4")
    assert edited != header.manifest_bytes
    forge.write(manifest=edited)
    assert refusal(forge) == refusal_to_verify(forge) == "bad-signature"


def test_stripped_signatures_are_refused(forge: Forge) -> None:
    forge.build()
    forge.write(sigs=cbor2.dumps([]))
    assert refusal(forge) == refusal_to_verify(forge) == "unsigned"


def test_a_key_that_only_the_file_knows_is_no_key(forge: Forge) -> None:
    stranger = Ed25519PrivateKey.generate()
    forge.build(publisher=stranger)
    assert refusal(forge) == "unknown-publisher"
    header, _ = forge.read()
    entry = forge.signature(header.manifest_bytes, stranger)
    entry["key"] = stranger.public_key().public_bytes_raw()
    forge.write(sigs=cbor2.dumps([entry], canonical=True))
    assert refusal(forge) == "bad-sigs"


def test_a_known_kid_over_a_strangers_signature_is_refused(forge: Forge) -> None:
    stranger = Ed25519PrivateKey.generate()
    forge.build(publisher=stranger)
    header, _ = forge.read()
    entry = forge.signature(header.manifest_bytes, stranger)
    entry["kid"] = compute_kid(forge.publisher.public_key())
    forge.write(sigs=cbor2.dumps([entry], canonical=True))
    assert refusal(forge) == "bad-signature"


@pytest.mark.parametrize("alg", ["none", "ED25519", "ed448", ""])
def test_another_algorithm_is_ignored_and_named(forge: Forge, alg: str) -> None:
    forge.build()
    header, _ = forge.read()
    entry = forge.signature(header.manifest_bytes) | {"alg": alg}
    forge.write(sigs=cbor2.dumps([entry], canonical=True))
    with pytest.raises(TgspError, match=f"'{alg}' by {entry['kid'].hex()}") as caught:
        forge.open()
    assert caught.value.code == "unknown-publisher"


def test_strangers_beside_a_good_signature_do_not_matter(forge: Forge) -> None:
    forge.build()
    header, _ = forge.read()
    good = forge.signature(header.manifest_bytes)
    stranger = forge.signature(b"something else", Ed25519PrivateKey.generate())
    forge.write(sigs=cbor2.dumps([stranger, good], canonical=True))
    assert forge.open().signers == (good["kid"],)


def test_a_bad_signature_beside_a_good_one_is_refused(forge: Forge) -> None:
    second = Ed25519PrivateKey.generate()
    forge.publishers.append(PublisherKey(second.public_key()))
    forge.build()
    header, _ = forge.read()
    entries = [forge.signature(header.manifest_bytes), forge.signature(b"other", second)]
    forge.write(sigs=cbor2.dumps(entries, canonical=True))
    assert refusal(forge) == "bad-signature"


def test_a_publisher_named_twice_is_refused(forge: Forge) -> None:
    forge.build()
    header, _ = forge.read()
    entry = forge.signature(header.manifest_bytes)
    forge.write(sigs=cbor2.dumps([entry, entry | {"sig": bytes(64)}], canonical=True))
    assert refusal(forge) == "bad-sigs"


def test_a_publisher_may_be_bound_to_names_and_time(forge: Forge) -> None:
    key = forge.publisher.public_key()
    forge.build()
    assert refusal(forge, publishers=[PublisherKey(key, names=["mod", "other*"])]) == (
        "publisher-not-allowed"
    )
    assert refusal(forge, publishers=[PublisherKey(key, not_after=NOW_S - 1)]) == (
        "unknown-publisher"
    )
    bound = PublisherKey(key, names=["mod*"], not_after=NOW_S)
    assert forge.open(publishers={bound.kid: bound}).manifest.name == "model"


# The form of the manifest, signed as it is by the true publisher


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
        (_set("payload", "alg", to="cobblestone-128"), "bad-manifest"),
        (_set("payload", "alg", to="none"), "bad-manifest"),
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


# Time, target and seq


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(-1, "not-yet-valid"), (0, None), (60, None), (61, "expired"), (10**9, "expired")],
)
def test_a_package_opens_inside_its_window_only(
    forge: Forge, seconds: int, code: str | None
) -> None:
    forge.build(not_after=NOW_S + 60)
    now = NOW + timedelta(seconds=seconds)
    if code is None:
        forge.open(now=now)
    else:
        assert refusal(forge, now=now) == code


def test_an_end_beyond_all_calendars_is_no_crash(forge: Forge) -> None:
    forge.build(not_before=2**63, not_after=2**64 - 1)
    assert refusal(forge) == "not-yet-valid"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"fleet": "factory-b"}, "wrong-fleet"),
        ({"fleet": None}, "wrong-fleet"),
        ({"matches": lambda selector: selector != "gpu=true"}, "selector-mismatch"),
        ({"matches": None}, "selector-mismatch"),
        ({"hardware": ["cpu"]}, "wrong-hardware"),
        ({"hardware": []}, "wrong-hardware"),
        ({"agent_version": "1.9.9"}, "agent-too-old"),
        ({"agent_version": "2.0.0-rc.1"}, "agent-too-old"),
        ({"agent_version": ""}, "agent-too-old"),
        ({}, None),
    ],
)
def test_a_package_opens_where_it_is_meant_for_only(
    forge: Forge, given: dict[str, Any], code: str | None
) -> None:
    target = Target(fleets=("hospital-a",), selector="gpu=true", hardware=("cuda", "rocm"))
    forge.build(target=target, min_agent="2.0.0")
    right: dict[str, Any] = {
        "fleet": "hospital-a",
        "matches": lambda selector: selector == "gpu=true",
        "hardware": ["cpu", "cuda"],
        "agent_version": "2.0.0",
    }
    if code is None:
        forge.open(**right)
    else:
        assert refusal(forge, **right | given) == code


def test_a_lower_seq_is_refused_unless_allowed(forge: Forge) -> None:
    built = forge.build(seq=7)
    assert refusal(forge, min_seq=SeqFloor(8)) == "seq-too-low"
    assert refusal(forge, min_seq=SeqFloor(7)) == "seq-too-low"
    assert refusal(forge, min_seq=SeqFloor(7, bytes(32))) == "seq-too-low"
    assert refusal(forge, min_seq=SeqFloor.at_least(8)) == "seq-too-low"
    for number, floor in enumerate(
        [SeqFloor(), SeqFloor(6), SeqFloor(7, built.digest), SeqFloor.at_least(7)]
    ):
        forge.out = forge.folder / f"opened-{number}"
        forge.open(min_seq=floor)
    forge.out = forge.folder / "downgraded"
    forge.open(min_seq=SeqFloor(8), allow_downgrade=True)


def test_another_package_than_the_one_asked_for_is_refused(forge: Forge) -> None:
    forge.build()
    assert refusal(forge, digest=bytes(32)) == "wrong-package"


# Grants


def _grant(forge: Forge, **changes: Any) -> dict[str, Any]:
    header, _ = forge.read()
    (grant,) = cbor2.loads(header.grants_bytes)
    return dict(grant | changes)


def _write_grants(forge: Forge, *grants: dict[str, Any]) -> None:
    forge.write(grants=cbor2.dumps(list(grants), canonical=True))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": NOW_S + 1}, "grant-refused"),
        ({"exp": NOW_S - 1}, "grant-expired"),
        ({"kid": bytes(32)}, "no-grant"),
        ({"alg": "hpke-none"}, "no-grant"),
        ({"sealed": bytes(80)}, "grant-refused"),
        ({"sealed": b""}, "grant-refused"),
        ({"kid": b"short"}, "bad-grants"),
        ({"exp": -1}, "bad-grants"),
        ({"exp": None}, "bad-grants"),
        ({"key": b"in band"}, "bad-grants"),
    ],
)
def test_a_changed_grant_is_refused(forge: Forge, changes: dict[str, Any], code: str) -> None:
    forge.build()
    _write_grants(forge, _grant(forge, **changes))
    assert refusal(forge) == code


def test_a_recipient_named_twice_is_refused(forge: Forge) -> None:
    forge.build()
    _write_grants(forge, _grant(forge), _grant(forge, exp=5))
    assert refusal(forge) == "bad-grants"


@pytest.mark.parametrize("data", [b"", b"\x9f\xff", b"\xa0", b"\x80\x80", b"\x81\xf6"])
def test_lists_in_another_form_are_refused(forge: Forge, data: bytes) -> None:
    forge.build()
    forge.write(grants=data)
    assert refusal(forge) == "bad-grants"
    forge.build()
    forge.write(sigs=data)
    assert refusal(forge) == "bad-sigs"


def test_grants_from_another_package_are_refused(forge: Forge) -> None:
    forge.build()
    other, _ = forge.read()
    forge.build()
    forge.write(grants=other.grants_bytes)
    assert refusal(forge) == "grant-refused"


def test_a_stranger_finds_no_grant(forge: Forge) -> None:
    forge.build()
    stranger = X25519PrivateKey.generate()
    assert refusal(forge, unwrap=unwrap_embedded(stranger, NOW)) == "no-grant"


def test_a_grant_with_another_dek_is_refused(forge: Forge) -> None:
    built = forge.build()
    sealed = seal_grant(
        bytes(32), recipient=forge.recipient.public_key(), manifest_digest=built.digest, exp=0
    )
    _write_grants(forge, _grant(forge, sealed=sealed))
    assert refusal(forge) == "payload-refused"


def test_a_detached_grant_opens_for_its_agent_until_it_expires(forge: Forge) -> None:
    built = forge.build()
    header, _ = forge.read()
    dek = unwrap_embedded(forge.recipient, NOW)(header)
    agent, exp = X25519PrivateKey.generate(), NOW_S + 60
    sealed = seal_grant(dek, recipient=agent.public_key(), manifest_digest=built.digest, exp=exp)
    assert len(sealed) == 80
    late = NOW + timedelta(seconds=61)
    stranger = X25519PrivateKey.generate()
    assert refusal(forge, unwrap=unwrap_detached(sealed, exp, agent, late)) == "grant-expired"
    assert refusal(forge, unwrap=unwrap_detached(sealed, exp + 9, agent, NOW)) == "grant-refused"
    assert refusal(forge, unwrap=unwrap_detached(sealed, exp, stranger, NOW)) == "grant-refused"
    forge.open(unwrap=unwrap_detached(sealed, exp, agent, NOW))


def test_refusals_come_in_the_order_of_the_format(forge: Forge) -> None:
    """A package that is wrong in every way; each repair shows the next refusal."""
    wrong: dict[str, Any] = {
        "publishers": [],
        "now": NOW + timedelta(days=1),
        "fleet": "factory-b",
        "min_seq": SeqFloor(9),
        "unwrap": unwrap_embedded(X25519PrivateKey.generate(), NOW),
    }
    repairs: list[tuple[str, dict[str, Any]]] = [
        ("unknown-publisher", {"publishers": forge.publishers}),
        ("expired", {"now": NOW}),
        ("wrong-fleet", {"fleet": "hospital-a"}),
        ("seq-too-low", {"min_seq": SeqFloor(6)}),
        ("no-grant", {"unwrap": unwrap_embedded(forge.recipient, NOW)}),
    ]
    forge.build(target=Target(fleets=("hospital-a",)), not_after=NOW_S + 1)
    _, payload = forge.read()
    forge.write(payload=_flip_last(payload))
    for code, repair in repairs:
        assert refusal(forge, **wrong) == code
        wrong |= repair
    assert refusal(forge, **wrong) == "payload-refused"


# Random damage


def _flip_random_bits(forge: Forge, count: int) -> None:
    source = forge.folder / "source"
    source.write_bytes(bytes(300))
    forge.build(source)
    whole = forge.path.read_bytes()
    header, _ = forge.read()
    chance = random.Random(20_24)
    for _ in range(count):
        at = chance.randrange(len(whole) * 8)
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        forge.path.write_bytes(data)
        code = refusal(forge)
        assert code, f"bit {at} went unnoticed"
    assert header.payload_offset < len(whole)


def test_any_flipped_bit_is_refused(forge: Forge) -> None:
    _flip_random_bits(forge, 500)


@pytest.mark.deep
@pytest.mark.timeout(600)
def test_any_of_very_many_flipped_bits_is_refused(forge: Forge) -> None:
    _flip_random_bits(forge, 10_000)


def test_the_unharmed_package_opens(forge: Forge, tmp_path: Path) -> None:
    """The counterpart of all above: these helpers do make packages that open."""
    built = forge.build()
    forge.write(resign=True)
    opened = forge.open(digest=built.digest)
    assert opened.manifest == built.manifest
    assert msgspec.structs.asdict(opened.manifest)["name"] == "model"
    assert GRANT_ALG == _grant(forge)["alg"]
