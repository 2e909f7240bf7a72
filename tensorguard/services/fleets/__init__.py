"""Fleets, their agents and configuration, moves between them, and the fronts that hold sessions."""
