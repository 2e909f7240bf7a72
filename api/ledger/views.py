"""Answers about the ledger: the exact bytes, so that anybody can check them."""

import base64
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from api.views import View
from tensorguard.services.evidence.ledger_queries import LedgerEntry
from tensorguard.services.evidence.witnesses import DeviceWitnesses, ReportedFork
from tensorguard.store.names import Thing


class EntryView(View):
    """An entry in its place: `leaf_hash` in hex, `entry` the exact bytes in base64.

    The names are no part of the entry: what its subject and its actor are called now, if anything.
    """

    epoch: int
    leaf_index: int
    leaf_hash: str
    entry: str
    subject_name: str | None
    actor_name: str | None


def entry_view(entry: LedgerEntry, names: Mapping[Thing, str]) -> EntryView:
    """Return an entry as it travels."""
    return EntryView(
        epoch=entry.epoch,
        leaf_index=entry.leaf_index,
        leaf_hash=entry.leaf_hash.hex(),
        entry=base64.b64encode(entry.entry).decode(),
        subject_name=names.get((entry.subject_kind, entry.subject_id)),
        actor_name=names.get((entry.actor_kind, entry.actor_id)),
    )


class InclusionProofView(View):
    """That an entry stands in the tree of `tree_size`; hashes in hex, the leaf's sibling first."""

    leaf_index: int
    tree_size: int
    root_hash: str
    audit_path: list[str]


class ConsistencyProofView(View):
    """That the tree of `second` entries begins with that of `first`; hashes in hex."""

    first: int
    second: int
    consistency_path: list[str]


class ForkView(View):
    """A checkpoint that a device has seen and that this ledger cannot extend.

    `reason`: `newer-epoch`, `larger` (more entries than there are) or `other-root`.
    """

    epoch: int
    tree_size: int
    root_hash: str
    agent_id: UUID
    reason: str
    seen_at: datetime


def fork_view(fork: ReportedFork) -> ForkView:
    """Return an alarm as it travels."""
    return ForkView(
        epoch=fork.epoch,
        tree_size=fork.tree_size,
        root_hash=fork.root_hash.hex(),
        agent_id=fork.agent_id,
        reason=fork.reason,
        seen_at=fork.seen_at,
    )


class CountView(View):
    """How many entries a filter lets through; where `is_exact` is false there are more."""

    count: int
    is_exact: bool


class EventTypeView(View):
    """A type of entry: what it happens to, how it ends, and what it means."""

    type: str
    subject: str
    outcome: str
    what: str


class CheckpointsView(View):
    """The epoch that the ledger is in, and who remembers checkpoints of it outside.

    `signed_at` is when the newest was signed; `agents` is how many of the `active_agents` said in
    their last heartbeats that they remember one, `largest_size` the largest of these.
    """

    epoch: int
    signed_at: datetime | None
    agents: int
    active_agents: int
    largest_size: int | None
    heard_at: datetime | None


def checkpoints_view(
    epoch: int, signed_at: datetime | None, witnesses: DeviceWitnesses
) -> CheckpointsView:
    """Return what is known of checkpoints as it travels."""
    return CheckpointsView(
        epoch=epoch,
        signed_at=signed_at,
        agents=witnesses.agents,
        active_agents=witnesses.active_agents,
        largest_size=witnesses.largest_size,
        heard_at=witnesses.heard_at,
    )
