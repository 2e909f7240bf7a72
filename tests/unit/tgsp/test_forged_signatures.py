"""Only a signature by a held publisher key makes a manifest believable."""

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tensorguard.tgsp.errors import TgspError
from tensorguard.tgsp.keys import compute_kid
from tensorguard.tgsp.signing import PublisherKey
from tests.unit.tgsp.builders import NOW_S, Forge
from tests.unit.tgsp.refusals import refusal, refusal_to_verify


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
    assert caught.value.code == "unknown-signature-alg"


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
    assert refusal(forge) == "duplicate-signer"


def test_a_publisher_may_be_bound_to_names_and_time(forge: Forge) -> None:
    key = forge.publisher.public_key()
    forge.build()
    assert refusal(forge, publishers=[PublisherKey(key, names=["mod", "other*"])]) == (
        "publisher-not-allowed"
    )
    for window, code in (
        ({"not_after": NOW_S}, "publisher-expired"),
        ({"not_before": NOW_S + 1}, "publisher-not-yet-valid"),
    ):
        untimely = [PublisherKey(key, **window)]
        assert refusal(forge, publishers=untimely) == code
    bound = PublisherKey(key, names=["mod*"], not_before=NOW_S, not_after=NOW_S + 1)
    assert forge.open(publishers={bound.kid: bound}).manifest.name == "model"


def test_a_signature_in_its_time_counts_beside_one_out_of_time(forge: Forge) -> None:
    former = Ed25519PrivateKey.generate()
    forge.build()
    header, _ = forge.read()
    entries = [
        forge.signature(header.manifest_bytes, former),
        forge.signature(header.manifest_bytes),
    ]
    forge.write(sigs=cbor2.dumps(entries, canonical=True))
    held = [PublisherKey(former.public_key(), not_after=NOW_S - 1), *forge.publishers]
    assert forge.open(publishers=held).signers == (entries[1]["kid"],)


def test_a_bad_signature_by_a_key_out_of_time_is_refused(forge: Forge) -> None:
    former = Ed25519PrivateKey.generate()
    forge.build()
    forged = forge.signature(b"something else", former)
    forge.write(sigs=cbor2.dumps([forged], canonical=True))
    held = [PublisherKey(former.public_key(), not_after=NOW_S - 1)]
    assert refusal(forge, publishers=held) == "bad-signature"


@pytest.mark.parametrize("sig", [b"", bytes(63), bytes(64), bytes(65)])
def test_a_signature_of_any_other_bytes_is_refused(forge: Forge, sig: bytes) -> None:
    forge.build()
    header, _ = forge.read()
    entry = forge.signature(header.manifest_bytes) | {"sig": sig}
    forge.write(sigs=cbor2.dumps([entry], canonical=True))
    assert refusal(forge) == "bad-signature"
