"""Uplinks from a JetStream stream that many hubs share by its partitions; downlinks over NATS."""
