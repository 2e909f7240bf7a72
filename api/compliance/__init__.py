"""Compliance: the sunburst, and the report of a fleet and a period."""
