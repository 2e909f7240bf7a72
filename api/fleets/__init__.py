"""Fleets and their configuration."""
