"""Deployments as pure decisions: stages, gates, state machine."""
