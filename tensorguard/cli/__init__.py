"""The `tensorguard` command: the only place that knows every service."""
