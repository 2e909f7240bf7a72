"""Releases: names and versions of packages."""
