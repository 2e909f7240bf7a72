"""The auth callout's keys: kept in a file, public halves as NATS spells them, boxes that hold."""

from pathlib import Path

import nkeys
import pytest

from broker.nats.keys import CalloutKeys, CalloutKeysDamaged, NotSealedForUs


def test_keys_come_back_from_their_file_which_only_its_owner_reads(tmp_path: Path) -> None:
    keys, path = CalloutKeys.generate(), tmp_path / "callout.json"
    keys.store(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert CalloutKeys.load(path) == keys
    with pytest.raises(FileExistsError):
        keys.store(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"issuer": "00", "xkey": "00"}', "{"])
def test_a_damaged_file_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "callout.json"
    path.write_text(text)
    with pytest.raises(CalloutKeysDamaged) as caught:
        CalloutKeys.load(path)
    assert "nats-keys" in caught.value.hint


def test_the_names_are_an_account_and_a_curve_key_and_no_secret_is_shown() -> None:
    keys = CalloutKeys.generate()
    assert (keys.issuer[0], len(keys.issuer)) == ("A", 56)
    assert (keys.xkey[0], len(keys.xkey)) == ("X", 56)
    assert repr(keys) == f"CalloutKeys({keys.issuer})"


def test_what_is_signed_is_verified_under_the_public_name() -> None:
    keys = CalloutKeys.generate()
    seed = nkeys.encode_seed(keys._issuer, nkeys.PREFIX_BYTE_ACCOUNT)
    assert nkeys.from_seed(seed).verify(b"said", keys.sign(b"said"))


def test_only_the_two_ends_of_a_box_open_it() -> None:
    ours, servers, others = (CalloutKeys.generate() for _ in range(3))
    sealed = servers.seal(b"who is this?", ours.xkey)
    assert ours.open(sealed, servers.xkey) == b"who is this?"
    for keys, sender in ((others, servers.xkey), (ours, others.xkey)):
        with pytest.raises(NotSealedForUs):
            keys.open(sealed, sender)
    with pytest.raises(NotSealedForUs):
        ours.open(b"eyJhbGciOi", servers.xkey)
    with pytest.raises(NotSealedForUs):
        ours.open(sealed[:-1], servers.xkey)
    with pytest.raises(NotSealedForUs):
        ours.open(sealed, servers.xkey[:-1] + "A")
