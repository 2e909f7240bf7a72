"""Ledger entries for other systems: their shape (OCSF), and clients of the kinds of sinks."""
