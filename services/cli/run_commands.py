"""`baton train`, `runs` and `cancel`: training runs, and watching one until its verdict."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import show
from services.cli.terminal import AsJson, ConfigFile, Limit, Model, connect, err, out, print_json, print_value
from services.client import Client

POLL_SECONDS = 0.5


def train(
    model: Model,
    config: ConfigFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the verdict.")] = False,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override for this run, e.g. training.epochs=5.")
    ] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key starts at most one run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a model on its data; a version that beats the champion takes over.

    With --wait, Ctrl-C stops watching, not the run (`baton cancel RUN` does). Exit status: 0 when the run succeeded,
    whatever the verdict; 1 when it failed, was cancelled, or won but could not take over.
    """
    headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
    with connect(config) as client:
        run = client.post(f"/api/models/{model}/runs", {"set": [_absolute(item) for item in assign or []]}, headers)
        if wait:
            try:
                run = _watch(client, run["id"], quiet=as_json)
            except KeyboardInterrupt:
                err.print(f"\nrun {run['id']} goes on; `baton cancel {run['id']}` ends it, `baton runs {model}` shows it")
                raise typer.Exit(130) from None
    if as_json:
        print_json(run)
    elif wait:
        out.print(show.verdict(run))
    else:
        out.print(f"run [bold]{run['id']}[/] is {run['state']}; watch it with `baton runs {model}`")
    if wait and (run["state"] != "succeeded" or run.get("rollout_problem")):
        raise typer.Exit(1)


def runs(model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Training runs of a model, newest first."""
    with connect(config) as client:
        items = client.get(f"/api/models/{model}/runs", limit=limit)["items"]
    print_value(items, as_json, show.runs)


def cancel(run: Annotated[str, typer.Argument(help="A run's id.")], config: ConfigFile = None, as_json: AsJson = False) -> None:
    """End an active run now; `baton runs MODEL` lists them. Ctrl-C during `baton train --wait` does not."""
    with connect(config) as client:
        ended = client.post(f"/api/runs/{run}/cancel")
    print_value(ended, as_json, _cancelled)


def _cancelled(run: dict[str, Any]) -> str:
    said = f"run {run['id']} is {run['state']}"
    if run["cause"] is None:
        return said
    hint = f"`baton retrain {run['model']} --pause REASON` prevents that"
    return f"{said}; what started it ({run['cause']}) starts another one after the cool-down: {hint}"


def _absolute(assignment: str) -> str:
    """Files named on the command line are the user's, wherever the job will run."""
    key, equals, value = assignment.partition("=")
    if key.strip() in ("data.train", "base_model") and Path(value).exists():
        return f"{key}{equals}{Path(value).resolve()}"
    return assignment


def _watch(client: Client, run_id: str, *, quiet: bool) -> dict[str, Any]:
    """Follow a run to its end, and a winner until it serves."""
    with show.progress(err, quiet=quiet) as update:
        while True:
            run: dict[str, Any] = client.get(f"/api/runs/{run_id}")
            update(run)
            if run["state"] in ("succeeded", "failed", "cancelled"):
                break
            time.sleep(POLL_SECONDS)
        while (run.get("decision") or {}).get("verdict") == "promote":
            model = client.get(f"/api/models/{run['model']}")
            if model["champion"] == run["version"] and not model["rolling_out"]:
                run["rolled_out"] = True
                break
            if problem := _rollout_problem(client, run):
                run["rollout_problem"] = problem
                break
            time.sleep(POLL_SECONDS)
    return run


def _rollout_problem(client: Client, run: dict[str, Any]) -> str | None:
    """Why a winner will not serve, or None while it still may."""
    recent = client.get(f"/api/models/{run['model']}/history", limit=20)["items"]
    champion = client.get(f"/api/models/{run['model']}")["champion"]  # after the history: what it tells has happened by now
    if champion not in (run["decision"]["champion"], run["version"]):
        return f"v{champion} took over meanwhile; `baton promote {run['model']} {run['version']}` judges again"
    mine = [item for item in recent if item["version"] == run["version"]]
    failed = [item["text"] for item in mine if item["what"] == "rollout failed"]
    if champion != run["version"] and any(item["what"] == "promoted" for item in mine):
        return f"v{run['version']} took over, but v{champion} serves by now"
    return failed[0] if failed else None
