"""The ledger: entries, checkpoint, verifier key."""
