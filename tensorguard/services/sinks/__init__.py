"""Sinks: their configuration, their cursors, and what the exporter writes down of them."""
