"""What the ledger keeps of reports; listed again in evidence/events.py."""

from datetime import datetime

from tensorguard.services.evidence.event import Event


class ReportExported(Event, frozen=True, kw_only=True):
    """A compliance report was handed out: of `fleet`, or of all, about `since` to `until`.

    It lists so many `entries` with their proofs, under the checkpoint of so `size` entries.
    """

    TYPE = "compliance.report-exported"
    SUBJECT = ("ledger", "epoch")
    epoch: int
    size: int
    since: datetime
    until: datetime
    entries: int
