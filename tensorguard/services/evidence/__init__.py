"""The ledger: every event there is, how it is written, sequenced and read."""
