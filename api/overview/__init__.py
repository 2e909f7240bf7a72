"""The whole platform in numbers."""
