"""Key providers and envelope encryption of stored secrets."""
