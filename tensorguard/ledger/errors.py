"""What can be wrong with an entry, a proof or a checkpoint, each with the way out."""


class LedgerError(Exception):
    """The ledger, or a statement about it, is not what it must be.

    `code` is stable and machine-readable; `message` says what is wrong; `hint` says what to do.
    """

    code = "ledger-error"
    hint = "Verify an export of the ledger with its verifier key."

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint


class BadEntry(LedgerError):
    """An entry cannot be written as canonical JSON within the limits."""

    code = "bad-entry"
    hint = "Entries hold text, whole numbers below 2^53, lists and objects, in at most 64 KiB."


class BadProof(LedgerError):
    """An inclusion or consistency proof does not hold."""

    code = "bad-proof"
    hint = "Fetch the proof again; if it still fails, the ledger was changed: keep the checkpoint."


class BadCheckpoint(LedgerError):
    """A checkpoint is malformed or carries no valid signature of a known key."""

    code = "bad-checkpoint"
    hint = "Compare the verifier key with the one that was handed out when the platform was set up."


class BadVerifierKey(LedgerError):
    """A verifier key is not `<name>+<hash>+<base64>` of an Ed25519 key."""

    code = "bad-verifier-key"
    hint = "Copy the whole line that /api/v1/ledger/key answers."


class LedgerForked(LedgerError):
    """The stored tree contradicts a checkpoint that was already signed."""

    code = "ledger-forked"
    hint = "Restore the newest backup, or begin a new epoch; nothing is signed until then."
