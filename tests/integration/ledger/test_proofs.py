"""Proofs out of stored hashes, held against a second implementation written from the RFC."""

import hashlib
from datetime import timedelta
from random import Random

import pytest

from tensorguard.ledger.tree import leaf_hash, verify_consistency, verify_inclusion
from tensorguard.services.evidence import ledger
from tensorguard.services.evidence.ledger_queries import list_entries
from tensorguard.services.evidence.tree_queries import (
    NoSuchProof,
    get_consistency_proof,
    get_frontier,
    get_inclusion_proof,
)
from tensorguard.store.engine import SessionMaker
from tests.integration.ledger.builders import EPOCH, MakeSequencer, now, reported


def root_of(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1 over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + root_of(leaves[:k]) + root_of(leaves[k:])).digest()


def path_of(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162 §2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*path_of(index, leaves[:k]), root_of(leaves[k:])]
    return [*path_of(index - k, leaves[k:]), root_of(leaves[:k])]


async def test_proofs_of_the_stored_tree_are_those_of_the_definition(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    async with sessions.begin() as session:
        await ledger.record_many(session, [reported(number) for number in range(75)], now=now())
    await make_sequencer(batch_events=13, checkpoint_every=timedelta(0)).step()
    while await make_sequencer(batch_events=13, checkpoint_every=timedelta(0)).step():
        pass
    random = Random(5)
    async with sessions() as session:
        page = await list_entries(session, limit=100)
        leaves = [leaf_hash(item.entry) for item in page.items]
        for _ in range(20):
            size = random.randint(1, 75)
            index, first = random.randrange(size), random.randint(1, size)
            proof = await get_inclusion_proof(session, EPOCH, index, size)
            assert proof.audit_path == path_of(index, leaves[:size])
            assert proof.root_hash == root_of(leaves[:size])
            verify_inclusion(index, size, leaves[index], proof.audit_path, proof.root_hash)
            path = await get_consistency_proof(session, EPOCH, first, size)
            old = (await get_frontier(session, EPOCH, first)).root
            verify_consistency(first, size, old, proof.root_hash, path)


async def test_what_is_not_signed_yet_or_is_not_there_is_not_proven(
    sessions: SessionMaker, make_sequencer: MakeSequencer
) -> None:
    async with sessions() as session:
        with pytest.raises(NoSuchProof, match="has 0 entries"):
            await get_inclusion_proof(session, EPOCH, 0, 1)
    async with sessions.begin() as session:
        await ledger.record_many(session, [reported(1), reported(2)], now=now())
    await make_sequencer().step()
    async with sessions() as session:
        with pytest.raises(NoSuchProof, match="leaf 2 is not in"):
            await get_inclusion_proof(session, EPOCH, 2, 2)
        with pytest.raises(NoSuchProof, match="has 2 entries, not 3"):
            await get_consistency_proof(session, EPOCH, 1, 3)
        with pytest.raises(NoSuchProof, match="from size 2 to 1"):
            await get_consistency_proof(session, EPOCH, 2, 1)
