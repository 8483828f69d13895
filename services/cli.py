"""The ``baton`` command. Reads the environment and the configuration, talks to the service, prints for people or JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from baton import config as configuration
from baton.config import BatonConfig, load_config
from baton.errors import BatonError, InvalidInput, NotReady
from services import cluster, exposure, feedback_commands, key_commands, render_command, show, show_datasets
from services.client import ApiError, Client
from services.terminal import AsJson, ConfigFile, Limit, Model, connect, err, key_in_use, out, path_of, print_json, print_value

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="**Baton keeps NLP models in production learning**: serve, fine-tune, judge, hot-swap.\n\n"
    "Start with `baton demo` (the whole loop in minutes), or `baton up` with a baton.yaml of your own.",
)
config_app = typer.Typer(no_args_is_help=True, help="Check the configuration, show it, or print its JSON Schema.")
app.add_typer(config_app, name="config")
app.add_typer(key_commands.keys_app, name="keys")

logger = logging.getLogger("baton")

DETACHED_SECONDS = 240.0
DOWN_SECONDS = 60.0
POLL_SECONDS = 0.5
LABELS_SHOWN = 3
PIPED_WIDTH = 200


@app.callback()
def common(
    key: Annotated[
        str | None,
        typer.Option(envvar="BATON_KEY", help="API key for the service. Others see command lines: prefer BATON_KEY."),
    ] = None,
) -> None:
    """What all commands share."""
    key_in_use.set(key)
    for console in (out, err):
        if not console.is_terminal:  # a file or another program: lines are whole there
            console.width = max(console.width, PIPED_WIDTH)


@app.command()
def up(
    config: ConfigFile = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once /readyz answers 200; stop it with `baton down`.")
    ] = False,
) -> None:
    """Start the service: its own Ray on this machine, or the cluster named by RAY_ADDRESS.

    In the foreground it runs until Ctrl-C. It serves every model that has a champion; train the first one with
    `baton train MODEL --wait`.
    """
    from services import supervisor

    os.environ.pop("BATON_KEY", None)  # all that it starts would inherit it, and nobody there has a use for it
    path = path_of(config)
    loaded = load_config(path, os.environ)
    if loaded.logging.format == "json" and not detach:
        _speak_json(loaded)
    state = _state(path)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        supervisor.run_on_cluster(loaded, address, _say)
        _print_ready(loaded)
    elif detach:
        _detach(path, state, loaded)
    else:
        supervisor.run_local(loaded, state, _say, ready=lambda: _print_ready(loaded))


@app.command()
def down(config: ConfigFile = None) -> None:
    """Stop the service that was started from this configuration, and everything it started."""
    path = path_of(config)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        from services import supervisor

        loaded = load_config(path, os.environ)
        supervisor.join(loaded, address)
        supervisor.withdraw(loaded)
        out.print(f"removed Baton's applications from {address}")
        return
    state = _state(path)
    instance = state.read()
    if instance is None:
        out.print("nothing is running")
        return
    if cluster.alive(instance):
        os.kill(instance.pid, 15)
        if not cluster.wait_for_exit(instance, DOWN_SECONDS):
            os.kill(instance.pid, 9)
    left = cluster.sweep(instance)
    state.clear()
    out.print("stopped" + (f" (cleared {left} leftover processes)" if left else ""))


@app.command()
def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Models, champions, replicas and what is going on."""
    with connect(config) as client:
        models = client.get("/api/models")["items"]
    instance = _state(path_of(config)).read()
    ports = dict(instance.ports) if instance else {}
    if as_json:
        print_json({"url": client.url, "models": models, "ports": ports})
    else:
        out.print(f"Baton at [bold]{client.url}[/]  (API: {client.url}/docs)")
        if ports:
            out.print(
                f"Ray dashboard: http://127.0.0.1:{ports['dashboard']}  Ray metrics: http://127.0.0.1:{ports['metrics']}",
                style="dim",
            )
        out.print(show.models(models))


@app.command()
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


@app.command()
def runs(model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Training runs of a model, newest first."""
    with connect(config) as client:
        items = client.get(f"/api/models/{model}/runs", limit=limit)["items"]
    print_value(items, as_json, show.runs)


@app.command()
def cancel(run: Annotated[str, typer.Argument(help="A run's id.")], config: ConfigFile = None, as_json: AsJson = False) -> None:
    """End an active run now."""
    with connect(config) as client:
        ended = client.post(f"/api/runs/{run}/cancel")
    print_value(ended, as_json, lambda item: f"run {item['id']} is {item['state']}")


@app.command()
def versions(model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Versions of a model, newest first."""
    with connect(config) as client:
        items = client.get(f"/api/models/{model}/versions", limit=limit)["items"]
    print_value(items, as_json, show.versions)


@app.command()
def datasets(
    model: Model,
    number: Annotated[int | None, typer.Argument(min=1, help="Show this version whole.")] = None,
    config: ConfigFile = None,
    diff: Annotated[
        tuple[int, int] | None, typer.Option("--diff", help="What changed from the first to the second.", metavar="OLD NEW")
    ] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Data set versions of a model, newest first: their rows, and what was left out and why."""
    if diff is not None and number is not None:
        raise InvalidInput("a number shows one version, --diff OLD NEW compares two; leave one of them out")
    path = f"/api/models/{model}/datasets"
    with connect(config) as client:
        if diff is not None:
            old, new = diff
            print_value(client.get(f"{path}/{new}/diff", against=old), as_json, show_datasets.difference)
        elif number is not None:
            print_value(client.get(f"{path}/{number}"), as_json, show_datasets.version)
        else:
            print_value(client.get(path, limit=limit)["items"], as_json, show_datasets.versions)


@app.command()
def promote(
    model: Model,
    version: Annotated[int, typer.Argument(min=1, help="The version that should take over.")],
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Pass over the gate; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; stays in the history.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a version against the champion and, if it wins, swap it in. Exit status 1 when the gate refuses."""
    body = {"version": version, "force": force, "reason": reason}
    try:
        with connect(config) as client:
            answer = client.post(f"/api/models/{model}/promotions", body)
    except ApiError as error:
        if not (as_json and "decision" in error.content):
            raise
        print_json(error.content)
        raise typer.Exit(1) from None
    print_value(answer, as_json, lambda item: show.decision(item["decision"]))


@app.command()
def rollback(
    model: Model,
    config: ConfigFile = None,
    to: Annotated[int | None, typer.Option("--to", min=1, help="An earlier champion; the previous one by default.")] = None,
    reason: Annotated[str, typer.Option(help="Why; stays in the history.")] = "rolled back by an operator",
    as_json: AsJson = False,
) -> None:
    """Put the previous champion back in service."""
    with connect(config) as client:
        answer = client.post(f"/api/models/{model}/rollback", {"version": to, "reason": reason})
    print_value(answer, as_json, lambda item: show.decision(item["decision"]))


@app.command()
def retrain(
    model: Model,
    config: ConfigFile = None,
    pause: Annotated[
        str | None, typer.Option("--pause", metavar="REASON", help="Start no run by itself until --resume, and say why.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Let runs start by themselves again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Whether a model would be trained anew by itself now, and why or why not; with drift and live F1.

    Triggers stand in baton.yaml under `retrain:`. `baton train MODEL` starts a run by hand at any time.
    """
    if pause is not None and resume:
        raise InvalidInput("--pause and --resume contradict each other; give one of them")
    path = f"/api/models/{model}/retrain"
    with connect(config) as client:
        if pause is not None or resume:
            state = client.post(path, {"paused": pause is not None, "reason": pause})
        else:
            state = client.get(path)
    print_value(state, as_json, show.retrain)


@app.command()
def history(model: Model, config: ConfigFile = None, limit: Limit = 20, as_json: AsJson = False) -> None:
    """What happened to a model: promotions, refusals, failures, newest first."""
    with connect(config) as client:
        items = client.get(f"/api/models/{model}/history", limit=limit)["items"]
    print_value(items, as_json, show.history)


@app.command()
def predict(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="Texts; for question answering, questions.", metavar="TEXT…")],
    config: ConfigFile = None,
    context: Annotated[str | None, typer.Option(help="Text that holds the answers (question answering).")] = None,
    context_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File with that text.", metavar="FILE")
    ] = None,
    pair: Annotated[str | None, typer.Option(help="Second text to classify each TEXT with.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels or answers to show [default: 3 labels, 1 answer].")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a served model.

    `baton predict intents "I was charged twice"` · `baton predict help "Who may refund?" --context-file policy.txt`
    """
    if context_file is not None:
        if context is not None:
            raise InvalidInput("--context and --context-file are two ways to give one text; leave one of them out")
        context = _read_text(context_file)
    with connect(config) as client:
        task = client.get(f"/models/{model}/info")["task"]
        inputs = [_input(task, text, context, pair) for text in texts]
        choices = top_k or (LABELS_SHOWN if task in ("classification", "multi_label") else None)
        parameters: dict[str, Any] = {"top_k": choices} if choices else {}
        answer = client.predict(model, inputs, **parameters)
    if as_json:
        print_json({"version": answer.version, "request_id": answer.request_id, "answers": answer.outputs})
    else:
        out.print(show.predictions(task, inputs, answer))


app.command()(render_command.render)
app.command()(feedback_commands.feedback)
app.command()(feedback_commands.live)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service running and its files in place.")] = False,
) -> None:
    """Run the whole loop on bundled samples: train, serve, swap under load, refuse a bad version, roll back."""
    from services import demo as story

    story.play(out, keep=keep)


@config_app.command("schema")
def config_schema() -> None:
    """The JSON Schema of baton.yaml, for editors."""
    print_json(configuration.json_schema())


@config_app.command("check")
def config_check(config: ConfigFile = None) -> None:
    """Report every mistake of the configuration; exit status 1 when there is one.

    Files that are missing here are told, and are no mistake: training reads them where its job runs.
    """
    path = path_of(config)
    loaded = load_config(path, os.environ)
    for model in loaded.models:
        for key, value in (("train", model.data.train), ("holdout", model.data.holdout)):
            if isinstance(value, str) and Path(value).is_absolute() and not Path(value).is_file():
                err.print(
                    f"{model.name}: data.{key}: {value} is no file on this machine",
                    style="yellow",
                    markup=False,
                    soft_wrap=True,
                )
    out.print(f"{path} is valid: {len(loaded.models)} model(s): {', '.join(model.name for model in loaded.models)}")


@config_app.command("show")
def config_show(config: ConfigFile = None) -> None:
    """The configuration in force: the file, environment overrides and defaults together."""
    print_json(load_config(path_of(config), os.environ).model_dump(mode="json"))


def main() -> None:
    """Entry point: an error for people is one message and exit status 1."""
    try:
        app()
    except ApiError as error:
        if "decision" in error.content:
            out.print(show.decision(error.content["decision"]))
        else:
            err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
    except BatonError as error:
        if logger.isEnabledFor(logging.INFO):
            logger.error(str(error))
        else:
            err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)


def _input(task: str, text: str, context: str | None, pair: str | None) -> Any:
    """What the model is asked, as its task takes it."""
    if pair is not None and task not in ("classification", "multi_label"):
        raise InvalidInput(f"--pair is for classification; this model's task is {task}")
    if task == "qa":
        if context is None:
            raise InvalidInput("this model answers questions on a text; give it with --context TEXT or --context-file FILE")
        return {"question": text, "context": context}
    if context is not None:
        raise InvalidInput(f"--context is for question answering; this model's task is {task}")
    return text if pair is None else {"text": text, "text_pair": pair}


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read as UTF-8 text: {error}") from error


def _absolute(assignment: str) -> str:
    """Files named on the command line are the user's, wherever the job will run."""
    key, equals, value = assignment.partition("=")
    if key.strip() in ("data.train", "base_model") and Path(value).exists():
        return f"{key}{equals}{Path(value).resolve()}"
    return assignment


def _state(path: Path) -> cluster.State:
    """``.baton`` next to the configuration, or BATON_STATE where that place cannot be written to."""
    return cluster.State(Path(os.environ.get("BATON_STATE") or path.resolve().parent / ".baton").resolve())


def _say(text: str) -> None:
    warning = text.startswith(exposure.WARNING)
    if logger.isEnabledFor(logging.INFO):
        logger.log(logging.WARNING if warning else logging.INFO, text)
    else:
        _show(f"baton: {text}" if warning else f"baton: {text} …")


def _show(line: str) -> None:
    """A line about the start; warnings must not be passed over."""
    style = "bold yellow" if line.startswith(f"baton: {exposure.WARNING}") else "dim"
    err.print(line, style=style, markup=False, soft_wrap=True)


def _speak_json(config: BatonConfig) -> None:
    """Have the supervisor log instead of printing."""
    from baton import logs

    logs.set_up(as_json=True, texts=config.logging.texts)


def _print_ready(config: BatonConfig) -> None:
    from services.supervisor import url_of

    url = url_of(config)
    if logger.isEnabledFor(logging.INFO):
        logger.info(f"ready at {url}")
        return
    out.print(f"[green]ready[/] at [bold]{url}[/]  API: {url}/docs  models: {url}/models/NAME")


def _detach(path: Path, state: cluster.State, config: BatonConfig) -> None:
    """Start the supervisor in a session of its own, and wait for its word."""
    from services import supervisor

    supervisor.clear_leftovers(state, _say)
    cluster.require_free(config.http.host, config.http.port)
    state.logs.mkdir(parents=True, exist_ok=True)
    log = state.logs / "up.log"
    command = [sys.executable, "-P", "-m", "services.cli", "up", "-c", str(path.resolve())]
    plain = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"} | {"NO_COLOR": "1"}  # we read its words
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=plain, start_new_session=True
        )
    try:
        _await_detached(process, log, supervisor.url_of(config))
    except BaseException:
        process.terminate()
        process.wait(DOWN_SECONDS)
        raise
    _print_ready(config)


def _await_detached(process: subprocess.Popen[bytes], log: Path, url: str) -> None:
    """Return when the service says that it is ready; pass on its progress."""
    deadline = time.monotonic() + DETACHED_SECONDS
    shown = 0
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        for written in text[shown:].splitlines(keepends=True):
            if not written.endswith("\n"):
                break
            shown += len(written)
            line = f"baton: {_logged(written)}" if written.startswith("{") else written
            if line.startswith(("ready ", "baton: ready ")):
                return
            if line.startswith("baton: "):
                _show(line.rstrip())
        if process.poll() is not None:
            said = [line for line in text.splitlines() if line.strip() and not line.startswith("baton: ")]
            raise NotReady("\n".join(map(_logged, said[-10:])).removeprefix("error: ") or f"it ended without a word; see {log}")
        time.sleep(0.1)
    raise NotReady(f"not ready after {DETACHED_SECONDS:.0f} s; see {log}")


def _logged(line: str) -> str:
    """The message of a line in a log, where it is a JSON object."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(line)["message"])
    return line


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


if __name__ == "__main__":
    main()
