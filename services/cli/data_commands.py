"""`baton data`: look at data files before anything trains on them, without a service; or at what a run froze."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.config.file import load_config
from baton.config.model_settings import DATA_SUFFIXES, DataSettings, ModelSettings
from baton.errors import Conflict, InvalidInput
from baton.tasks import TASKS
from services.cli.terminal import AsJson, ConfigFile, connect_to_read, path_of, print_value
from services.tables import show_data

BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""Whose tokens are counted for a file that belongs to no model."""

HOLDOUT_SHARE = 0.2
"""What `baton init` holds out."""


def data(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="A data file, its URL, or the name of a model in baton.yaml.", metavar="FILE|MODEL")
    ],
    config: ConfigFile = None,
    task: Annotated[
        str | None, typer.Option(help=f"Of a file: {', '.join(TASKS)} [default: what its rows look like].", metavar="TASK")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="Of a file: the column of a field; may be repeated.", metavar="FIELD=COLUMN"),
    ] = None,
    base_model: Annotated[
        str, typer.Option(help="Of a file: whose tokens are counted, and whose embeddings find suspects.", metavar="MODEL")
    ] = BASE_MODEL,
    suspects: Annotated[
        Path | None,
        typer.Option(
            help="Write rows that are probably mislabelled to this file, as corrections to look through.", metavar="FILE"
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help="Of a model: the data set that this run froze, feedback included, not the files.", metavar="RUN"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at data before anything trains on it: labels, lengths, duplicates, contradictions, leaks, oddities.

    `baton data train.csv` · `baton data intents` · `baton data train.csv --suspects doubtful.jsonl`

    Files are read as a run reads them, without feedback. Suspects are rows whose label a cross-validated probe doubts; correct
    the labels in that file, delete the lines that are right, and send it: `baton feedback MODEL doubtful.jsonl`. Those of a
    MODEL stand in the console's review, too. Exit status 1 when a run could not train on the data.
    """
    if suspects is not None and suspects.exists():
        raise Conflict(f"--suspects: {suspects} is there already; name a new file")
    if _is_file(target):
        settings, storage = file_settings(target, task, fields or [], base_model), None
    else:
        settings, storage = _of_model(target, config, task, fields or [])
    if run is not None:
        _show_run(context, config, target, run, as_json=as_json)
        return
    report = look(settings, guess=task is None and storage is None, suspects=suspects, storage=storage)
    print_value(report, as_json, lambda value: show_data.report(value, suspects))
    if not report["usable"]:
        raise typer.Exit(1)


def _show_run(context: typer.Context, config: Path | None, model: str, run: str, *, as_json: bool) -> None:
    """Print the report of a run of ``model`` about the data set that it froze."""
    if _is_file(model):
        raise InvalidInput(f"--run: {model!r} is a file; runs belong to models: `baton data MODEL --run {run}`")
    with connect_to_read(context, config) as client:
        if client.get(f"/api/runs/{run}")["model"] != model:
            raise InvalidInput(f"--run: {run} is no run of {model}; `baton runs {model}` lists them")
        report = client.get(f"/api/runs/{run}/data")
    print_value(report, as_json, lambda value: show_data.report({**value, "guessed": False, "fields": {}, "others": ()}, None))


def look(settings: ModelSettings, *, guess: bool, suspects: Path | None, storage: str | None = None) -> dict[str, Any]:
    """Return the report of `python -m training data`, which runs as a process of its own: services do not import training."""
    options = [*(["--guess"] if guess else []), *([] if suspects is None else ["--suspects", str(suspects.absolute())])]
    options += [] if suspects is None or storage is None else ["--storage", storage]
    command = [sys.executable, "-P", "-m", "training", "data", settings.model_dump_json(), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _is_file(target: str) -> bool:
    return "://" in target or Path(target).suffix.lower() in DATA_SUFFIXES or Path(target).is_file()


def _of_model(name: str, config: Path | None, task: str | None, fields: list[str]) -> tuple[ModelSettings, str]:
    """Return the settings of a model, and the URL of its storage."""
    if task is not None or fields:
        raise InvalidInput(f"{name!r} is no file: --task and --field are for files; a model has both in baton.yaml")
    loaded = load_config(path_of(config), os.environ)
    return loaded.model(name), loaded.storage


def file_settings(file: str, task: str | None, fields: list[str], base_model: str) -> ModelSettings:
    """Return the settings that a model with this file would have. Raises ``InvalidInput``."""
    if task is not None and task not in TASKS:
        raise InvalidInput(f"--task: {task!r} is not allowed; allowed: {', '.join(TASKS)}")
    columns = {}
    for one in fields:
        name, equals, column = one.partition("=")
        if not (name and equals and column):
            raise InvalidInput(f"--field: {one!r} is not allowed; write FIELD=COLUMN, for example text=body")
        columns[name] = column
    files = DataSettings(train=file, fields=columns, holdout=HOLDOUT_SHARE)
    return ModelSettings(name="file", task=task or "classification", base_model=base_model, data=files)
