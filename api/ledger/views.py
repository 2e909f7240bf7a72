"""Answers about the ledger: the exact bytes, so that anybody can check them."""

import base64
from collections.abc import Mapping

from api.views import View
from tensorguard.services.evidence.ledger_queries import LedgerEntry
from tensorguard.store.names import Thing


class EntryView(View):
    """An entry in its place: `leaf_hash` in hex, `entry` the exact bytes in base64.

    The names are no part of the entry: what its subject and its actor are called now, if anything.
    """

    leaf_index: int
    leaf_hash: str
    entry: str
    subject_name: str | None
    actor_name: str | None


def entry_view(entry: LedgerEntry, names: Mapping[Thing, str]) -> EntryView:
    """Return an entry as it travels."""
    return EntryView(
        leaf_index=entry.leaf_index,
        leaf_hash=entry.leaf_hash.hex(),
        entry=base64.b64encode(entry.entry).decode(),
        subject_name=names.get((entry.subject_kind, entry.subject_id)),
        actor_name=names.get((entry.actor_kind, entry.actor_id)),
    )
