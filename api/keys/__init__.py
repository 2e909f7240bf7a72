"""`/api/v1/keys`: KEKs, their versions and providers, and the jobs that rewrap."""
