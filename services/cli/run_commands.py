"""`baton train`, `register`, `runs` and `cancel`: runs, which train a version or bring one from elsewhere."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from baton.errors import ConfigError
from baton.store.records import HistoryKind, RolloutState, RunState, Verdict
from services.cli.pending import pending, sentence
from services.cli.terminal import (
    AsJson,
    ConfigFile,
    Limit,
    Model,
    connect,
    connect_to_read,
    err,
    out,
    print_json,
    print_value,
    warn,
)
from services.client import Client
from services.tables import show_runs

POLL_SECONDS = 0.5
"""Pause between two reads of the state of a run that the command waits for."""

GIVEN_UP = [kind for kind in HistoryKind if kind.gives_up]
"""Kinds of history entries after which a winner does not take over by itself."""


def train(
    context: typer.Context,
    model: Model,
    config: ConfigFile = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress until the verdict, and until a winner serves or is on trial.")
    ] = False,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a setting for this run, for example training.epochs=5. May be given several times.",
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Start at most one run for this key, even if the command is repeated.", metavar="KEY")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on its data; a version that beats the champion takes over.

    `baton train intents --wait --set training.epochs=5`

    With --wait, the exit status is 0 when the run succeeded, even if the gate refused its version. It is 1 when the run failed
    or was cancelled, or when its version won but could not take over. Ctrl-C stops waiting, and the run continues:
    `baton cancel RUN` stops it.
    """
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
    with connect(context, config) as client:
        differs = pending(client, config)
        if differs is not None and any(change.model == model for change in differs.models):
            warn(sentence(differs, config))
        run = client.post(f"/api/models/{model}/runs", {"set": [_absolute(item) for item in assign or []]}, headers)
        _follow(client, run, wait=wait, as_json=as_json)


def register(
    context: typer.Context,
    model: Model,
    source: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face directory with weights and tokenizer: a path that the cluster's nodes can read, or a storage "
            "URL. Or the id of a model on the hub.",
            metavar="DIRECTORY",
        ),
    ],
    config: ConfigFile = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Name the model\'s labels with this JSON file: {"LABEL_0": "billing", …}, by their names or their numbers.',
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress until the verdict, and until a winner serves or is on trial.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a version that was trained elsewhere; if it beats the champion, it takes over.

    `baton register intents ./my-model --wait`

    The model is evaluated on the holdout and judged like any other version. Without declared data nothing can judge it: it is
    published, and `baton promote --force --reason …` puts it into service. Exit status 1 with --wait when the run fails, or a
    winner cannot take over.
    """
    body = {"source": _model_source(source), "labels": None if labels is None else _read_labels(labels)}
    with connect(context, config) as client:
        run = client.post(f"/api/models/{model}/versions", body)
        _follow(client, run, wait=wait, as_json=as_json)


def _follow(client: Client, run: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Print a run that was started, with ``wait`` once it has ended. Exit with status 1 if it failed or cannot take over."""
    if wait:
        try:
            run = _watch(client, run["id"], quiet=as_json)
        except KeyboardInterrupt:
            err.print(f"\nrun {run['id']} continues; `baton cancel {run['id']}` stops it, `baton runs {run['model']}` shows it")
            raise typer.Exit(130) from None
    if as_json:
        print_json(run)
    elif wait:
        out.print(show_runs.verdict(run))
    else:
        out.print(f"run [bold]{run['id']}[/] is {run['state']}; watch it with `baton runs {run['model']}`")
    if wait and (run["state"] != RunState.SUCCEEDED or run.get("rollout_problem")):
        raise typer.Exit(1)


def runs(context: typer.Context, model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """List the runs of a model, newest first."""
    with connect_to_read(context, config) as client:
        items = client.get(f"/api/models/{model}/runs", limit=limit)["items"]
    print_value(items, as_json, show_runs.runs)


def cancel(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Id of an active run; `baton runs MODEL` lists them.", metavar="RUN")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Cancel an active run.

    Ctrl-C during `baton train --wait` or `register --wait` only stops waiting; this command stops the run itself.
    """
    with connect(context, config) as client:
        ended = client.post(f"/api/runs/{run}/cancel")
    print_value(ended, as_json, _cancelled_text)


def _cancelled_text(run: dict[str, Any]) -> str:
    state = f"run {run['id']} is {run['state']}"
    if run["cause"] is None:  # a person started it
        return state
    hint = f"`baton retrain {run['model']} --pause REASON` prevents that"
    return f"{state}; its trigger ({run['cause']}) starts another run after the cool-down; {hint}"


def _absolute(assignment: str) -> str:
    """Make a file name in ``KEY=VALUE`` absolute: it is relative to the user's directory, not to the job's."""
    key, equals, value = assignment.partition("=")
    return f"{key}{equals}{_absolute_path(value)}" if key.strip() in ("data.train", "base_model") else assignment


def _absolute_path(value: str) -> str:
    """Return the absolute path of what exists on this machine, and anything else (a URL, an id) unchanged."""
    path = Path(os.path.expanduser(value))  # noqa: PTH111  Path.expanduser raises for unknown users
    return str(path.resolve()) if path.exists() else value


def _model_source(value: str) -> str:
    """Return what `register` sends for a DIRECTORY, see `_absolute_path`. Raises ``BadParameter`` if it cannot be one."""
    if not value.strip():
        raise typer.BadParameter("DIRECTORY is empty; name a directory, a storage URL or the id of a model on the hub")
    source = _absolute_path(value)
    if Path(source).is_file():
        raise typer.BadParameter(f"{value} is a file; name the directory that it lies in")
    if source.startswith((".", "~")):
        raise typer.BadParameter(f"{value}: no such directory on this machine; give a path on the cluster's nodes from / on")
    return source


def _read_labels(path: Path) -> dict[str, str]:
    """Read the names of labels. Raises ``ConfigError``."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--labels {path}: it cannot be read as JSON: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ConfigError(f'--labels {path}: an object of names is needed, such as {{"LABEL_0": "billing", "LABEL_1": "bug"}}')
    return names


def _watch(client: Client, run_id: str, *, quiet: bool) -> dict[str, Any]:
    """Poll a run until it has ended and, if its version won, until that version serves or cannot.

    Returns the run. Of a winner, it has in addition ``rolled_out: True``, ``on_canary: True``, ``waits_for`` (the version that
    is on trial and comes first), or ``rollout_problem`` (why it will not serve).
    """
    with show_runs.progress(err, quiet=quiet) as update:
        while True:
            run: dict[str, Any] = client.get(f"/api/runs/{run_id}")
            update(run)
            if RunState(run["state"]).final:
                break
            time.sleep(POLL_SECONDS)
        while (run.get("decision") or {}).get("verdict") == Verdict.PROMOTE:
            model = client.get(f"/api/models/{run['model']}")
            if model["champion"] == run["version"] and not model["rollout"]:
                run["rolled_out"] = True
                break
            active = model["rollout"]
            if active and RolloutState(active["state"]).trial:
                run |= {"on_canary": True} if active["version"] == run["version"] else {"waits_for": active["version"]}
                break
            if problem := _rollout_problem(client, run):
                run["rollout_problem"] = problem
                break
            time.sleep(POLL_SECONDS)
    return run


def _rollout_problem(client: Client, run: dict[str, Any]) -> str | None:
    """Return why the version of ``run``, a winner, will not serve; None while it still may."""
    # the history first, so that the champion is not older than the history
    recent = client.get(f"/api/models/{run['model']}/history", limit=20)["items"]
    champion = client.get(f"/api/models/{run['model']}")["champion"]
    if champion not in (run["decision"]["champion"], run["version"]):
        return f"v{champion} became champion in the meantime; `baton promote {run['model']} {run['version']}` compares again"
    events = [item for item in recent if item["version"] == run["version"]]
    failures = [f"{item['what']}: {item['text']}" for item in events if item["what"] in GIVEN_UP]
    if champion != run["version"] and any(item["what"] == HistoryKind.PROMOTED for item in events):
        return f"v{run['version']} took over, but v{champion} has replaced it since"
    return failures[0] if failures else None
