"""Agents: the list, one of them, its telemetry, its timeline, the kill switch."""
