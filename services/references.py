"""Writes the generated parts of the manual: ``python -m services.references``, or ``make docs``, in a clone.

A page marks its part with `BEGIN` and `END`; what stands outside them is written by hand. The texts come from the code
that they describe: descriptions of fields, help texts of commands, the table of metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from baton.config import reference as configuration
from services import metrics
from services.cli import reference as cli

DOCS = Path(__file__).parents[1] / "docs"

BEGIN, END = "<!-- written by make docs -->\n", "<!-- end of what make docs writes -->\n"

REFERENCES: Mapping[str, Callable[[], str]] = {
    "configuration.md": configuration.reference,
    "cli.md": cli.reference,
    "metrics.md": metrics.reference,
}
"""Pages of the manual that have a generated part, each with the function that makes it."""


def updated(page: str, reference: str) -> str:
    """Return a page with its generated part replaced. Raises ``ValueError`` if the page does not mark it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page must contain the lines {BEGIN.strip()!r} and {END.strip()!r}")
    return f"{before}{begin}\n{reference.strip()}\n\n{end}{after}"


def main() -> None:
    """Write the generated part of each page."""
    for name, reference in REFERENCES.items():
        page = DOCS / name
        page.write_text(updated(page.read_text(encoding="utf-8"), reference()), encoding="utf-8")


if __name__ == "__main__":
    main()
