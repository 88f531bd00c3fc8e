"""`python -m hybrid_icbs` is the command `hybrid-icbs`."""

from hybrid_icbs.cli.app import main

main()
