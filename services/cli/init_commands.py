"""`baton init`: write a first baton.yaml for a data file. Contacts no service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.config import file as configuration
from baton.config.file import validate
from baton.config.model_settings import ModelSettings
from baton.errors import Conflict, DataError, InvalidInput
from baton.tasks import task_type
from services.cli.data_commands import BASE_MODEL, HOLDOUT_SHARE, file_settings, look
from services.cli.terminal import err, out
from services.tables.show_data import other_columns

WRITER = "google-t5/t5-small"
"""The base model of a task whose models write, unless another is named."""

TEMPLATE = """\
# Written by `baton init {file}`. `baton config schema` describes every setting.
models:
  - name: {name}
    task: {task}                # guessed from the rows
    base_model: {base_model}    # a hub id, or the directory of a Hugging Face model
    data:
      train: {train}
      holdout: {holdout}                        # share that judges new versions and is never trained on; or a file of its own
{fields}    gate: {{min_f1: 0.5}}                   # the first version must show at least this F1
    # retrain: {{after_examples: 200}}      # train by itself once so many corrections came
    # serving: {{replicas: 2}}

# storage: ./.baton/storage               # or s3://bucket/prefix
# database: sqlite:///.baton/baton.db     # or postgresql+psycopg://…
# http: {{host: 127.0.0.1, port: 8000}}
"""


def init(
    file: Annotated[Path, typer.Argument(help="A file of labelled data.", metavar="FILE")],
    name: Annotated[str | None, typer.Option(help="The model's name [default: the file's].", metavar="NAME")] = None,
    base_model: Annotated[
        str, typer.Option(help="The model to fine-tune: a Hugging Face id or a directory.", metavar="MODEL")
    ] = BASE_MODEL,
    to: Annotated[Path, typer.Option("-c", "--config", help="The configuration file to write.", metavar="FILE")] = Path(
        configuration.DEFAULT_FILE
    ),
) -> None:
    """Write a commented baton.yaml for a data file: the task and the columns are guessed from its rows, and told.

    `baton init tickets.csv`, then `baton up --detach`, then `baton train tickets --wait`.

    A file that is there already is not overwritten.
    """
    if to.exists():
        raise Conflict(f"{to} is there already; write another file with -c FILE, or add the model to it")
    report = look(file_settings(str(file), None, [], base_model), guess=True, suspects=None)
    errors = [finding["what"] for finding in report["findings"] if finding["level"] == "error"]
    if errors:
        raise DataError("\n".join(errors))
    if base_model == BASE_MODEL and task_type(report["task"]).target == "text":
        base_model = WRITER
    name = name or _name_of(file)
    validate(ModelSettings, {"name": name, "task": report["task"], "base_model": base_model}, source="--name")
    to.write_text(_content(file, to, name, base_model, report), encoding="utf-8")
    [split] = report["splits"]
    columns = ", ".join(f"{field} in the column {column!r}" for field, column in report["fields"].items())
    out.print(
        f"{to}: {name}, {report['task']}, {split['rows']:,} rows"
        + (f", {len(split['labels']):,} labels" if split["labels"] else "")
        + (f"; {columns}" if columns else "")
        + f" (guessed; correct it there)\nnext: baton data {name} · baton up --detach · baton train {name} --wait",
        markup=False,
        highlight=False,
    )
    doubts = [other_columns(report["others"])] if report["others"] else []
    doubts += [finding["what"] for finding in report["findings"] if finding["level"] == "warning"]
    for doubt in doubts:
        err.print(f"{file}: {doubt}", style="yellow", markup=False, soft_wrap=True)


def _name_of(file: Path) -> str:
    """Return the file's name as a model's: lower case, with hyphens."""
    words = "".join(
        character if character.isascii() and character.isalnum() else " " for character in file.stem.lower()
    ).split()
    if not words:
        raise InvalidInput(f"{file.name} makes no name for a model; give one with --name")
    return "-".join(words)[:40].strip("-")


def _content(file: Path, to: Path, name: str, base_model: str, report: dict[str, Any]) -> str:
    resolved, home = file.resolve(), to.resolve().parent
    train = resolved.relative_to(home) if resolved.is_relative_to(home) else resolved
    columns = json.dumps(report["fields"], ensure_ascii=False)  # JSON is YAML
    return TEMPLATE.format(
        file=file,
        name=name,
        task=report["task"],
        base_model=base_model,
        train=json.dumps(str(train), ensure_ascii=False),
        holdout=HOLDOUT_SHARE,
        fields=f"      fields: {columns}    # guessed: the columns of the task's fields\n" if report["fields"] else "",
    )
