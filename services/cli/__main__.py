"""``python -m services.cli``, and the script `baton`: loads the command line, and ends quietly if Ctrl-C comes meanwhile."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command."""
    try:
        from services.cli import app
    except KeyboardInterrupt:
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
