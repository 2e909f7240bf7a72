"""The RFC 6962 tree over ledger entries, its checkpoints and proofs."""
