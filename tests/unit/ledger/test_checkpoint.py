"""Checkpoints: ours verify, a foreign note verifies, and nothing that was changed does."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.ledger.checkpoint import (
    Checkpoint,
    VerifierKey,
    ledger_origin,
    parse_checkpoint,
    parse_verifier_key,
    sign_checkpoint,
    verify_checkpoint,
)
from tensorguard.ledger.errors import BadCheckpoint, BadVerifierKey

ORIGIN = ledger_origin("example.org")
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = VerifierKey(ORIGIN, SIGNER.public_key())
CHECKPOINT = Checkpoint(ORIGIN, 20_852_163, bytes(range(32)))
NOTE = sign_checkpoint(CHECKPOINT, [SIGNER])

# The example in the documentation of golang.org/x/mod/sumdb/note (BSD-3-Clause).
FOREIGN_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
FOREIGN_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngot"
    "pRZb6KE6RyyBwJnAM=\n"
)


def test_a_checkpoint_is_three_lines_a_blank_one_and_the_signature() -> None:
    lines = NOTE.split("\n")
    root = base64.b64encode(CHECKPOINT.root).decode()
    assert lines[:4] == ["example.org/ledger/1", "20852163", root, ""]
    assert lines[4].startswith("— example.org/ledger/1 ")
    assert lines[5:] == [""]
    assert len(base64.b64decode(lines[4].rpartition(" ")[2])) == 4 + 64


def test_a_signed_checkpoint_verifies_with_the_key_as_it_is_handed_out() -> None:
    key = parse_verifier_key(str(KEY))
    assert key == KEY
    assert verify_checkpoint(NOTE, [key]) == CHECKPOINT
    assert parse_checkpoint(NOTE) == CHECKPOINT


def test_the_signature_of_another_implementation_verifies() -> None:
    key = parse_verifier_key(FOREIGN_KEY)
    with pytest.raises(BadCheckpoint, match="a checkpoint has an origin"):
        verify_checkpoint(FOREIGN_NOTE, [key])  # past the signature: it is no checkpoint
    with pytest.raises(BadCheckpoint, match="does not verify"):
        verify_checkpoint(FOREIGN_NOTE.replace("answer", "Answer"), [key])


@given(st.integers(0, len(NOTE) - 1), st.characters())
def test_a_note_with_any_character_changed_is_refused(at: int, character: str) -> None:
    changed = NOTE[:at] + character + NOTE[at + 1 :]
    if changed == NOTE:
        return
    with pytest.raises(BadCheckpoint):
        verify_checkpoint(changed, [KEY])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE.removesuffix("\n"),
        NOTE + "\n",
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("—", "-"),
        NOTE.replace("\n", "\r\n"),
        NOTE + "— someone else\n",
        "x" * 20_000 + NOTE,
        NOTE + NOTE.split("\n")[4] * 20,
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(BadCheckpoint):
        verify_checkpoint(note, [KEY])


def test_a_signature_has_one_spelling() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    assert NOTE.endswith("=\n")
    spare_bit_set = alphabet[alphabet.index(NOTE[-3]) ^ 1]  # the same bytes to a lenient decoder
    with pytest.raises(BadCheckpoint, match="not base64"):
        verify_checkpoint(NOTE[:-3] + spare_bit_set + "=\n", [KEY])


@pytest.mark.parametrize("size", ["-1", "01", "1.0", "", "١", "1e3", "+1", " 1"])
def test_a_size_that_is_not_plain_decimal_is_refused_though_it_is_signed(size: str) -> None:
    text = f"{ORIGIN}\n{size}\n{base64.b64encode(CHECKPOINT.root).decode()}\n"
    signature = base64.b64encode(KEY.hash + SIGNER.sign(text.encode())).decode()
    with pytest.raises(BadCheckpoint):
        verify_checkpoint(f"{text}\n— {ORIGIN} {signature}\n", [KEY])


def test_during_a_rotation_either_key_verifies_and_a_stranger_does_not() -> None:
    successor, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    note = sign_checkpoint(CHECKPOINT, [SIGNER, successor])
    for known in (SIGNER, successor):
        key = VerifierKey(ORIGIN, known.public_key())
        assert verify_checkpoint(note, [key]) == CHECKPOINT
    with pytest.raises(BadCheckpoint, match="no known key"):
        verify_checkpoint(note, [VerifierKey(ORIGIN, stranger.public_key())])


def test_a_key_of_another_ledger_does_not_speak_for_this_one() -> None:
    text = CHECKPOINT.to_text()
    other = VerifierKey(ledger_origin("example.net"), SIGNER.public_key())
    signature = base64.b64encode(other.hash + SIGNER.sign(text.encode())).decode()
    with pytest.raises(BadCheckpoint, match="not the checkpoint's origin"):
        verify_checkpoint(f"{text}\n— {other.name} {signature}\n", [other])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        FOREIGN_KEY.replace("PeterNeumann", "PeterNewman"),
        FOREIGN_KEY.replace("c74f20a3", "c74f20a4"),
        FOREIGN_KEY.replace("+AR", "+AQ"),
        FOREIGN_KEY.replace("+AR", "+BR"),
        FOREIGN_KEY[:-4],
        FOREIGN_KEY.replace("ARpc", "A!pc"),
    ],
)
def test_a_damaged_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(BadVerifierKey):
        parse_verifier_key(text)
