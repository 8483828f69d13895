"""`baton up`, `down` and `status`: the service as a whole."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Annotated

import typer

from baton.config.file import BatonConfig, load_config
from baton.errors import NotReady
from services.cli import show
from services.cli.terminal import AsJson, ConfigFile, connect, err, out, path_of, print_json, state_of
from services.host import cluster, startup_warnings

logger = logging.getLogger("baton")

DETACHED_SECONDS = 240.0
DOWN_SECONDS = 60.0


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
    from services.host import supervisor

    os.environ.pop("BATON_KEY", None)  # all that it starts would inherit it, and nobody there has a use for it
    path = path_of(config)
    loaded = load_config(path, os.environ)
    if loaded.logging.format == "json" and not detach:
        _speak_json(loaded)
    state = state_of(path)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        supervisor.run_on_cluster(loaded, address, _say)
        _print_ready(loaded)
    elif detach:
        _detach(path, state, loaded)
    else:
        supervisor.run_local(loaded, state, _say, ready=lambda: _print_ready(loaded))


def down(config: ConfigFile = None) -> None:
    """Stop the service that was started from this configuration, and everything it started."""
    path = path_of(config)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        from services.host import supervisor

        loaded = load_config(path, os.environ)
        supervisor.join(loaded, address)
        supervisor.withdraw(loaded)
        out.print(f"removed Baton's applications from {address}")
        return
    state = state_of(path)
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


def status(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Models, champions, replicas and what is going on."""
    instance = state_of(path_of(config)).read()
    try:
        with connect(config) as client:
            models = client.get("/api/models")["items"]
    except NotReady:
        if instance is None or not cluster.alive(instance):
            raise
        raise NotReady(f"Baton is on its way up at {instance.url} (process {instance.pid}); it does not answer yet") from None
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


def _say(text: str) -> None:
    if logger.isEnabledFor(logging.INFO):
        logger.log(logging.WARNING if text.startswith(startup_warnings.WARNING) else logging.INFO, text)
    else:
        _show(f"baton: {text}" if text.startswith((startup_warnings.WARNING, startup_warnings.NOTE)) else f"baton: {text} …")


def _show(line: str) -> None:
    """A line about the start; warnings must not be passed over."""
    style = "bold yellow" if line.startswith(f"baton: {startup_warnings.WARNING}") else "dim"
    err.print(line, style=style, markup=False, soft_wrap=True)


def _speak_json(config: BatonConfig) -> None:
    """Have the supervisor log instead of printing."""
    from baton import logs

    logs.set_up(as_json=True, texts=config.logging.texts)


def _print_ready(config: BatonConfig) -> None:
    from services.host.supervisor import url_of

    url = url_of(config)
    if logger.isEnabledFor(logging.INFO):
        logger.info(f"ready at {url}")
        return
    out.print(f"[green]ready[/] at [bold]{url}[/]  API: {url}/docs  models: {url}/models/NAME")


def _detach(path: Path, state: cluster.State, config: BatonConfig) -> None:
    """Start the supervisor in a session of its own, and wait for its word."""
    from services.host import supervisor

    supervisor.clear_leftovers(state, _say)
    with state.claimed():
        pass  # who is starting has not noted anything yet
    cluster.require_free(config.http.host, config.http.port)
    state.logs.mkdir(parents=True, exist_ok=True)
    log = state.logs / "up.log"
    with contextlib.suppress(FileNotFoundError):  # there is none, or who starts at this moment took it
        log.replace(log.with_name("up.log.1"))  # what the last one said, who may have crashed
    command = [sys.executable, "-P", "-m", "services.cli", "up", "-c", str(path.resolve())]
    plain = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"} | {"NO_COLOR": "1"}  # we read its words
    with log.open("ab") as output, log.open("rb") as words:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=plain, start_new_session=True
        )
        try:
            _await_detached(process, words, log)
        except BaseException:
            process.terminate()
            process.wait(DOWN_SECONDS)
            raise
    _print_ready(config)


def _await_detached(process: subprocess.Popen[bytes], words: IO[bytes], log: Path) -> None:
    """Return when the service says in ``words``, the file ``log``, that it is ready; pass on its progress."""
    deadline = time.monotonic() + DETACHED_SECONDS
    shown = 0
    while time.monotonic() < deadline:
        words.seek(0)
        text = words.read().decode(errors="replace")
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
