"""`baton render`: a Serve config, or the files of a KubeRay overlay. Talks to no service and no cluster."""

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
    out: Annotated[Path | None, typer.Option(help="Write the files of a KubeRay overlay there.", metavar="DIR")] = None,
    rules: Annotated[
        Path | None, typer.Option(help="Prometheus rules: write them to --out as a PrometheusRule instead.", metavar="FILE")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit status 1 when --out is out of date.")] = False,
) -> None:
    """The Serve config of a baton.yaml, for `serve deploy` or KubeRay; the same applications as `baton up` runs.

    Database and storage are for BATON_DATABASE and BATON_STORAGE to say, on every node.
    """
    if out is None and (check or rules):
        raise InvalidInput("--check and --rules need a directory; name it with --out")
    if out is None:
        sys.stdout.write(rendering.serve_config(rendering.portable(path_of(config))))
        return
    wanted = rendering.rule_file(rules) if rules else rendering.files(rendering.portable(path_of(config)))
    if not check:
        rendering.write(wanted, out)
    elif old := rendering.outdated(wanted, out):
        raise Conflict(f"{out}: out of date: {', '.join(old)}; the same command without --check renders anew")
