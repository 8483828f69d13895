"""`baton canary`, `shadow` and `rollout`: a version runs beside the champion before it takes over."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from services.cli.terminal import AsJson, ConfigFile, Model, Version, connect, connect_to_read, may_go_on, out, print_value
from services.tables import show_rollout

Minutes = Annotated[
    float | None,
    typer.Option(help="End it after so many minutes [default: when somebody ends or promotes it].", metavar="MINUTES"),
]
Reason = Annotated[str | None, typer.Option(help="Record this reason in the history.", metavar="REASON")]


def canary(
    context: typer.Context,
    model: Model,
    version: Version,
    percent: Annotated[
        float, typer.Option(help="Percent of the requests that the version answers, at most 50.", metavar="PERCENT")
    ] = 10.0,
    minutes: Minutes = None,
    reason: Reason = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Let a version answer a share of the requests (at most half), and watch how it does beside the champion.

    The header `x-baton-key` of a request (without it, its id) decides who answers: the same key gets the same version. It goes
    back by itself if it fails, is much slower, or is worse by feedback. `baton rollout` shows how it does; `baton promote` ends
    it with its promotion if the gate agrees, `baton rollout --stop` and the end of its --minutes without.
    """
    wanted = {"version": version, "mode": "canary", "percent": percent, "minutes": minutes, "reason": reason}
    _start(context, config, model, wanted, as_json)


def shadow(
    context: typer.Context,
    model: Model,
    version: Version,
    percent: Annotated[
        float, typer.Option(help="Percent of the requests that the version gets, at most 100.", metavar="PERCENT")
    ] = 20.0,
    minutes: Minutes = None,
    reason: Reason = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Send a version copies of a share of the requests, and compare its answers. Callers get the champion's, as always."""
    wanted = {"version": version, "mode": "shadow", "percent": percent, "minutes": minutes, "reason": reason}
    _start(context, config, model, wanted, as_json)


def rollout(
    context: typer.Context,
    model: Model,
    stop: Annotated[bool, typer.Option("--stop", help="End the canary or shadow: the champion answers everything.")] = False,
    reason: Annotated[
        str | None, typer.Option(help="With --stop: record this reason in the history.", metavar="REASON")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the canary, shadow or hand-over of a model: what is measured of both versions, or how the newest one ended."""
    if reason is not None and not stop:
        raise typer.BadParameter("--reason says why the trial ends, and belongs to --stop")
    path = f"/api/models/{model}/rollout"
    with (connect if stop else connect_to_read)(context, config) as client:
        item = client.delete(path, None if reason is None else {"reason": reason}) if stop else client.get(path)
    print_value(item, as_json, show_rollout.rollout)


def _start(context: typer.Context, config: Any, model: str, body: dict[str, Any], as_json: bool) -> None:
    with may_go_on(f"the {body['mode']}"), connect(context, config) as client:
        item = client.post(f"/api/models/{model}/rollout", body)
    print_value(item, as_json, show_rollout.started)
    if not as_json:
        out.print(Text(f"Watch it: baton rollout {model}   end it: baton rollout {model} --stop", style="dim"))
