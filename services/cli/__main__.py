"""``python -m services.cli``: run `baton` where its script is not on the PATH."""

from services.cli.app import main

main()
