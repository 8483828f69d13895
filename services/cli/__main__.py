"""``python -m services.cli``: the `baton` command where its script is not on the PATH."""

from services.cli.app import main

main()
