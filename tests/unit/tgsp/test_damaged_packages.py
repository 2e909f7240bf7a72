"""Damage to the container and the payload ends in a refusal and leaves nothing behind."""

import random
from collections.abc import Callable

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from tensorguard.tgsp.manifest import compute_context
from tensorguard.tgsp.opener import unwrap_embedded
from tensorguard.tgsp.reader import verify
from tests.unit.tgsp.builders import CONTENT, NOW, Forge
from tests.unit.tgsp.refusals import refusal, refusal_to_verify

CHUNK = 16384 + 16


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
    assert refusal(forge) == "wrong-dek"
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
    assert refusal(forge, unwrap=lambda _: dek) == "wrong-dek"


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


def test_the_unharmed_package_opens(forge: Forge) -> None:
    """The counterpart of all refusals: these builders do make packages that open."""
    built = forge.build()
    forge.write(resign=True)
    opened = forge.open(digest=built.digest)
    assert opened.manifest == built.manifest
    assert (forge.out / "model.onnx").read_bytes() == CONTENT
