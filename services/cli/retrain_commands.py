"""`baton retrain`: the state of automatic retraining, and its pause."""

from __future__ import annotations

from typing import Annotated

import typer

from baton.errors import InvalidInput
from services.cli.terminal import AsJson, ConfigFile, Model, connect, connect_to_read, print_value
from services.tables import show


def retrain(
    context: typer.Context,
    model: Model,
    config: ConfigFile = None,
    pause: Annotated[
        str | None,
        typer.Option("--pause", metavar="REASON", help="Pause automatic retraining until --resume, and record why."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume automatic retraining.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show whether automatic retraining would start a run now, and why. Pause or resume it.

    `baton retrain intents` · `baton retrain intents --pause "the labels are being cleaned"`

    Set its triggers in baton.yaml under `retrain:`. `baton train MODEL` starts a run by hand at any time.
    """
    if pause is not None and resume:
        raise InvalidInput("--pause and --resume contradict each other; give one of them")
    path = f"/api/models/{model}/retrain"
    changing = pause is not None or resume
    with (connect if changing else connect_to_read)(context, config) as client:
        state = client.post(path, {"paused": pause is not None, "reason": pause}) if changing else client.get(path)
    print_value(state, as_json, show.retrain)
