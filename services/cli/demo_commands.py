"""`baton demo`: the whole loop on bundled samples."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.terminal import out


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running, and keep its files.")] = False,
) -> None:
    """Run the whole loop on bundled samples: train, serve, swap under load, refuse a bad version, roll back."""
    from services.demo.demo import run_demo

    run_demo(out, keep=keep)
