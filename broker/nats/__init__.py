"""The NATS engine: a server's configuration, the auth callout's answers, the kicker."""
