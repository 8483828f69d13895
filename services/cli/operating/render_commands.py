"""`baton render`: print a Serve config, or write the files of a KubeRay overlay. Contacts no service and no cluster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from baton.errors import Conflict, InvalidInput
from services.cli.terminal import ConfigFile, path_of
from services.host import render as rendering


def render(
    config: ConfigFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the files of a KubeRay overlay into this directory.", metavar="DIR")
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            help="Write these Prometheus rules into --out as a PrometheusRule, instead of the overlay.", metavar="FILE"
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing, and exit with status 1 if the files in --out are out of date.")
    ] = False,
) -> None:
    """Print the Serve config of a baton.yaml for `serve deploy`, or write the files of a KubeRay overlay.

    The config has the same applications that `baton up` runs. It names neither database nor storage: set BATON_DATABASE and
    BATON_STORAGE on every node.
    """
    if out is None and (check or rules):
        raise InvalidInput("--check and --rules require a directory; give it with --out DIR")
    if out is None:
        sys.stdout.write(rendering.serve_config(rendering.portable(path_of(config))))
        return
    wanted = rendering.rule_file(rules) if rules else rendering.files(rendering.portable(path_of(config)))
    if not check:
        rendering.write(wanted, out)
    elif old := rendering.outdated(wanted, out):
        raise Conflict(f"{out}: out of date: {', '.join(old)}; run the same command without --check to write them again")
