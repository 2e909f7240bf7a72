"""Live events: hints to whoever watches."""
