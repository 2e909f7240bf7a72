"""Packages: upload, list, facts."""
