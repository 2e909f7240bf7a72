"""What the ledger keeps of itself: its keys, epochs, checkpoints that contradict it, erasures."""

from uuid import UUID

from tensorguard.services.evidence.event import Digest, Event, Subject


class KeyCreated(Event, frozen=True, kw_only=True):
    """A CA, signing or recipient key; for the ledger's own key see LedgerKeyCreated."""

    TYPE = "key.created"
    SUBJECT = ("key", "kid")
    kid: str
    purpose: str


class LedgerKeyCreated(Event, frozen=True, kw_only=True):
    """A key that signs checkpoints from now on; `verifier_key` is what checks them."""

    TYPE = "ledger.key-created"
    SUBJECT = ("key", "kid")
    kid: str
    verifier_key: str


class LedgerKeyRetired(Event, frozen=True, kw_only=True):
    """A key that signs no checkpoint any more; what it has signed stays signed."""

    TYPE = "ledger.key-retired"
    SUBJECT = ("key", "kid")
    kid: str
    verifier_key: str


class LedgerEpochBegan(Event, frozen=True, kw_only=True):
    """The first entry of an epoch: the database was restored to an earlier state.

    `checkpoint` is the last known signed note of before, `held` how many entries of that epoch the
    restored database still has.
    """

    TYPE = "ledger.epoch-began"
    SUBJECT = ("ledger", "epoch")
    epoch: int
    reason: str
    checkpoint: str | None = None
    held: int


class LedgerForkSeen(Event, frozen=True, kw_only=True):
    """A device says that it has seen a checkpoint which this ledger cannot extend.

    `reason`: `newer-epoch`, `larger` (more entries than there are), `other-root`.
    """

    TYPE = "ledger.fork-seen"
    SUBJECT = ("agent", "agent_id")
    OUTCOME = "failure"
    agent_id: UUID
    epoch: int
    size: int
    seen_root: Digest
    our_root: Digest | None = None
    reason: str


class LedgerExported(Event, frozen=True, kw_only=True):
    """Entries `start` to `end` (exclusive) of an epoch were handed out."""

    TYPE = "ledger.exported"
    SUBJECT = ("ledger", "epoch")
    epoch: int
    start: int
    end: int
    filtered: bool


class PrivateRead(Event, frozen=True, kw_only=True):
    """Somebody has read the private fields of the entry with this id."""

    TYPE = "ledger.private-read"
    SUBJECT = ("entry", "entry_id")
    entry_id: UUID


class SubjectErased(Event, frozen=True, kw_only=True):
    """The keys of a subject's private fields were destroyed: nobody can read those any more."""

    TYPE = "ledger.subject-erased"
    SUBJECT = ("subject", "subject_id")
    subject_id: str
    subject_kind: str
    keys: int

    @property
    def subject(self) -> Subject:
        return Subject(self.subject_kind, self.subject_id)
