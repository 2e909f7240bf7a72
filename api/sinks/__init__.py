"""`/api/v1/sinks`: where ledger entries are sent, how far each has come, what was not taken."""
