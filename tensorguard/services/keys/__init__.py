"""KEKs and what they seal: rotation, rewrap, the keyring, and key release to agents."""
