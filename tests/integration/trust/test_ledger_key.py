"""Rotating the key that signs checkpoints: both sign for a time, then the newer one alone."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from hub.sequencer import Sequencer
from tensorguard.ledger.checkpoint import VerifierKey, verify_checkpoint
from tensorguard.ledger.errors import BadCheckpoint
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.events import FleetConfigChanged
from tensorguard.services.evidence.signing_keys import (
    NewKeyUnknown,
    NoRotation,
    RotationUnderWay,
    begin_key_rotation,
    end_key_rotation,
    list_ledger_keys,
)
from tensorguard.services.evidence.tree_queries import get_latest_checkpoint
from tensorguard.services.keys.keyring import Keyring
from tests.integration.trust.site import BY, FLEET, Site


def now() -> datetime:
    return datetime.now(UTC)


async def next_note(site: Site, keyring: Keyring) -> str:
    """Something happens, and a hub that follows the keyring signs it."""
    async with site.sessions.begin() as session:
        event = FleetConfigChanged(by=BY, fleet=FLEET, revision=1, before={}, after={})
        await ledger.record(session, event, now=now())
    async with site.sessions() as session:
        await keyring.reload(session, site.kek)
    sequencer = Sequencer(
        site.sessions,
        trust_domain=keyring.trust_domain,
        signers=lambda: keyring.ledger_signers,
        clock=now,
        random=random.Random(1),
        checkpoint_every=timedelta(0),
    )
    await sequencer.step()
    async with site.sessions() as session:
        return (await get_latest_checkpoint(session)).note


def is_signed_by(note: str, key: VerifierKey) -> bool:
    try:
        verify_checkpoint(note, [key])
    except BadCheckpoint:
        return False
    return True


async def test_both_keys_sign_until_the_older_one_is_retired(site: Site) -> None:
    async with site.sessions() as session:
        keyring = await Keyring.load(session, site.kek)
        (old,) = await list_ledger_keys(session)
        with pytest.raises(NoRotation):
            await end_key_rotation(session, by=BY, now=now())
    async with site.sessions.begin() as session:
        new = await begin_key_rotation(session, site.kek, by=BY, now=now())
        with pytest.raises(RotationUnderWay):
            await begin_key_rotation(session, site.kek, by=BY, now=now())
        with pytest.raises(NewKeyUnknown, match="does not name the newer key"):
            await end_key_rotation(session, by=BY, now=now())
    await site.publish()
    note = await next_note(site, keyring)
    assert is_signed_by(note, old.verifier)
    assert is_signed_by(note, new.verifier)
    async with site.sessions.begin() as session:
        assert (await end_key_rotation(session, by=BY, now=now())).kid == old.kid
    note = await next_note(site, keyring)
    assert is_signed_by(note, new.verifier)
    assert not is_signed_by(note, old.verifier)
    assert verify_checkpoint(note, [old.verifier, new.verifier]).size > 0
