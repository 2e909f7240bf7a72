"""Who gets a release, when, and what may happen to it on the way (pure)."""
