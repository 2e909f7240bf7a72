"""`python -m tensorguard.cli` is the `tensorguard` command."""

from tensorguard.cli.main import main

main()
