"""`baton datasets`: list, show and compare the frozen data set versions of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from baton.errors import InvalidInput
from services.cli.terminal import AsJson, ConfigFile, Limit, Model, connect_to_read, print_value
from services.tables import show_datasets


def datasets(
    context: typer.Context,
    model: Model,
    number: Annotated[
        int | None, typer.Argument(min=1, help="Number of one version, to show it in full.", metavar="NUMBER")
    ] = None,
    config: ConfigFile = None,
    diff: Annotated[
        tuple[int, int] | None, typer.Option("--diff", help="Show what changed from version OLD to NEW.", metavar="OLD NEW")
    ] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="List all quarantined rows of version NUMBER, with the reasons.")
    ] = False,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List the data set versions of a model, show one in full, or compare two.

    `baton datasets intents` · `baton datasets intents 4` · `baton datasets intents --diff 3 4`

    The list has the rows of each version and the number of rows that were left out. With NUMBER, also see its labels, its
    conflicting rows, and why rows were left out.
    """
    if diff is not None and number is not None:
        raise InvalidInput("give NUMBER to show one version or --diff OLD NEW to compare two, not both")
    if quarantine and number is None:
        raise InvalidInput(f"--quarantine needs the number of a version: baton datasets {model} NUMBER --quarantine")
    path = f"/api/models/{model}/datasets"
    with connect_to_read(context, config) as client:
        if diff is not None:
            old, new = diff
            print_value(client.get(f"{path}/{new}/diff", against=old), as_json, show_datasets.difference)
        elif quarantine:
            print_value(client.all_of(f"{path}/{number}/quarantine"), as_json, show_datasets.quarantine)
        elif number is not None:
            print_value(client.get(f"{path}/{number}"), as_json, show_datasets.version)
        else:
            print_value(client.get(path, limit=limit)["items"], as_json, show_datasets.versions)
