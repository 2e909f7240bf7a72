"""Answers about the ledger: the exact bytes, so that anybody can check them."""

import base64

from api.views import View
from tensorguard.services.ledger_queries import LedgerEntry


class EntryView(View):
    """An entry in its place: `leaf_hash` in hex, `entry` the exact bytes in base64."""

    leaf_index: int
    leaf_hash: str
    entry: str


def entry_view(entry: LedgerEntry) -> EntryView:
    """Return an entry as it travels."""
    return EntryView(
        leaf_index=entry.leaf_index,
        leaf_hash=entry.leaf_hash.hex(),
        entry=base64.b64encode(entry.entry).decode(),
    )
