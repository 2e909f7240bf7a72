"""Broker fronts: what stands between one broker engine and the platform."""
