"""Use cases, the only writers of state: they take a session and never commit."""
