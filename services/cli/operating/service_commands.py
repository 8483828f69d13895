"""`baton up`, `down` and `status`: start, stop and inspect the service."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from baton import logs
from baton.config.file import BatonConfig, load_config
from baton.errors import InvalidInput, NotReady
from services.cli.operating import apply_commands
from services.cli.pending import is_ours, mistakes, pending, sentence
from services.cli.terminal import (
    AsJson,
    ConfigFile,
    connect,
    connect_to_read,
    err,
    from_database,
    listens,
    out,
    path_of,
    print_json,
    state_of,
)
from services.client import ApiError, Client
from services.host import processes
from services.host.checks import startup_warnings
from services.host.instance import StateDirectory, alive, url_of, wait_for_exit
from services.host.ports import require_free
from services.tables import show

logger = logging.getLogger("baton")

DETACHED_SECONDS = 240.0
"""Maximum time that `baton up --detach` waits until the service is ready."""

DOWN_SECONDS = 60.0
"""Maximum time that a service may take to stop, before it is killed."""

WATCH_SECONDS = 2.0
"""Pause between two looks of `baton status --watch`."""

OUTPUT_LINES = 10
"""Number of last lines of output that are shown when a start failed."""


def up(
    context: typer.Context,
    config: ConfigFile = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when /readyz answers 200. Stop the service with `baton down`.")
    ] = False,
) -> None:
    """Start the service on its own Ray cluster on this machine, or on the cluster that RAY_ADDRESS names.

    Without --detach, the command runs until Ctrl-C, which stops the service; the exit status is 130 if it was not ready yet.
    On a cluster that RAY_ADDRESS names, it returns when the service is ready. The service serves every model that has a
    champion; `baton train MODEL --wait` trains the first.

    If the service runs already and the file has changed since, this is `baton apply`.
    """
    from services.host import supervisor

    os.environ.pop("BATON_KEY", None)  # a secret that the processes started here would inherit and do not need
    path = path_of(config)
    loaded = load_config(path, os.environ)
    if loaded.logging.format == "json" and not detach:
        _log_as_json(loaded)
    state = state_of(path)
    address = os.environ.get("RAY_ADDRESS")
    instance = None if address else state.read()
    if instance is not None and alive(instance) and instance.address:
        with connect(context, config) as client:
            if pending(client, config):
                apply_commands.apply(context, config)
                return
    if address:
        supervisor.run_on_cluster(loaded, address, _report)
        _print_ready(loaded)
    elif detach:
        _detach(path, state, loaded)
    else:
        supervisor.run_local(loaded, state, _report, ready=lambda: _print_ready(loaded))


def down(config: ConfigFile = None) -> None:
    """Stop the service that `baton up` started from this configuration, with all its processes.

    With RAY_ADDRESS, remove Baton's applications from that cluster, which itself keeps running.
    """
    path = path_of(config)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        from services.host import serve_driver

        loaded = load_config(path, os.environ)
        serve_driver.join(loaded, address)
        serve_driver.withdraw()
        out.print(f"removed Baton's applications from {address}")
        return
    state = state_of(path)
    instance = state.read()
    if instance is None:
        out.print("nothing is running")
        return
    try:
        if alive(instance):
            os.kill(instance.pid, 15)
            if not wait_for_exit(instance, DOWN_SECONDS):
                os.kill(instance.pid, 9)
        left = processes.stop_all(instance)
        state.clear()
    except KeyboardInterrupt:
        now = "goes on stopping by itself" if alive(instance) else "has ended, but some of its processes may still run"
        err.print(f"\nthe service {now}; `baton down` waits for it and stops what is left")
        raise typer.Exit(130) from None
    out.print("stopped" + (f" (cleared {left} leftover processes)" if left else ""))
    if instance.logs:
        out.print(f"its logs are kept in {instance.logs}; `baton logs` shows them", style="dim", markup=False, soft_wrap=True)


def status(
    context: typer.Context,
    config: ConfigFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every few seconds, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the champion, the replicas and the current activity of each model. Without a service, what its database knows.

    With --watch, a terminal shows one picture that changes. Elsewhere each picture that differs from the one before is printed.
    """
    if not watch:
        content = _ask_status(context, config)
        if as_json:
            print_json(content)
        else:
            out.print(_status_picture(content))
        return
    if as_json:
        raise InvalidInput("--watch and --json exclude each other; run `baton status --json` in a loop of your own")
    with contextlib.suppress(KeyboardInterrupt):
        _watch_status(context, config)


Reading = Callable[[typer.Context, Path | None], contextlib.AbstractContextManager[Client]]
"""Connects as `connect_to_read`."""


def _ask_status(context: typer.Context, config: Path | None, reading: Reading = connect_to_read) -> dict[str, Any]:
    """Return what the service and the record of its start say. Raises ``NotReady`` if nothing answers."""
    instance = state_of(path_of(config)).read()
    running = instance is not None and alive(instance)
    try:
        with (connect if running else reading)(context, config) as client:
            models = client.get("/api/models")["items"]
            differs = pending(client, config)
            told = sentence(differs, config) if differs else mistakes(config) if is_ours(config) else None
    except NotReady:
        if instance is None or not running:
            raise
        raise NotReady(f"Baton is starting at {instance.url} (process {instance.pid}) and does not answer yet") from None
    ports = dict(instance.ports) if instance and not client.offline else {}
    return {"url": client.url, "running": not client.offline, "models": models, "ports": ports, "differs": told}


def _status_picture(content: Mapping[str, Any]) -> RenderableType:
    """Return the status as people see it."""
    url, ports = content["url"], content["ports"]
    lines: list[RenderableType] = []
    if content["running"]:
        lines.append(Text.from_markup(f"Baton at [bold]{url}[/]  (console: {url}/  API: {url}/docs)"))
    if ports:
        addresses = f"http://127.0.0.1:{ports['dashboard']}  Ray metrics: http://127.0.0.1:{ports['metrics']}"
        lines.append(Text(f"Ray dashboard: {addresses}", style="dim"))
    if content["differs"]:
        lines.append(Text(content["differs"], style="yellow"))
    return Group(*lines, show.models(content["models"]))


def _watch_status(context: typer.Context, config: Path | None) -> None:
    """Show the status until somebody interrupts; a service that does not answer is told, and asked again."""
    shown: object = None
    drawn = Live(console=out, auto_refresh=False, transient=False) if out.is_terminal else contextlib.nullcontext()
    with contextlib.closing(_Watching()) as watching, drawn as live:
        while True:
            try:
                content: dict[str, Any] | str = _ask_status(context, config, watching)
            except (NotReady, ApiError) as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
                content = str(error)
            picture = Text(content, style="red") if isinstance(content, str) else _watched_picture(content)
            now = Text(f"{datetime.now():%H:%M:%S}  (Ctrl-C ends)" if live else f"{datetime.now():%H:%M:%S}", style="dim")
            if live is not None:
                live.update(Group(picture, now), refresh=True)
            elif content != shown:
                out.print(now, picture, sep="\n")
            shown = content
            time.sleep(WATCH_SECONDS)


def _watched_picture(content: Mapping[str, Any]) -> RenderableType:
    """Return the status with where it is from: a line on stderr would stand in the middle of the picture."""
    picture = _status_picture(content)
    return picture if content["running"] else Group(Text(from_database(content["url"]), style="yellow"), picture)


class _Watching:
    """Connects as `connect_to_read`, again and again, but keeps the client of the database while no service listens."""

    def __init__(self) -> None:
        self._offline: Client | None = None

    @contextlib.contextmanager
    def __call__(self, context: typer.Context, config: Path | None) -> Iterator[Client]:
        """Yield a client."""
        if self._offline is not None and not listens(self._offline.url):
            yield self._offline
            return
        self.close()
        client = connect_to_read(context, config, quiet=True)
        if client.offline:
            self._offline = client
            yield client
        else:
            with client:
                yield client

    def close(self) -> None:
        """Close what was kept."""
        if self._offline is not None:
            self._offline.close()
            self._offline = None


def _report(text: str) -> None:
    """Report a step of the start, a note or a warning: as a log record if JSON logs are on, else as a line for people."""
    if logger.isEnabledFor(logging.INFO):
        logger.log(logging.WARNING if text.startswith(startup_warnings.WARNING) else logging.INFO, text)
    else:
        ending = "" if text.startswith((startup_warnings.WARNING, startup_warnings.NOTE)) else " …"
        _print_progress(f"baton: {text}{ending}")


def _print_progress(line: str) -> None:
    """Print a line about the start, in a log with the time; a warning stands out."""
    style = "bold yellow" if line.startswith(f"baton: {startup_warnings.WARNING}") else "dim"
    err.print(line if err.is_terminal else logs.stamped(line), style=style, markup=False, soft_wrap=True)


def _log_as_json(config: BatonConfig) -> None:
    """Make the supervisor log JSON instead of printing."""
    logs.set_up(as_json=True, texts=config.logging.texts)


def _print_ready(config: BatonConfig) -> None:
    url = url_of(config)
    if logger.isEnabledFor(logging.INFO):
        logger.info(f"ready at {url}")
        return
    out.print(f"[green]ready[/] at [bold]{url}[/]  console: {url}/  API: {url}/docs  models: {url}/models/NAME", soft_wrap=True)


def _detach(path: Path, state: StateDirectory, config: BatonConfig) -> None:
    """Start `baton up` as a process in a session of its own, and wait until it reports that the service is ready."""
    from services.host import supervisor

    supervisor.clear_leftovers(state, _report)
    with state.claimed():
        pass  # refuse early if another `baton up` holds the lock: it may not have recorded its instance yet
    require_free(config.http.host, config.http.port)
    state.logs.mkdir(parents=True, exist_ok=True)
    log = state.up_log
    with contextlib.suppress(FileNotFoundError):  # there is no log, or another `baton up` has just moved it
        log.replace(log.with_name("up.log.1"))  # keep the log of the start before, which may have crashed
    command = [sys.executable, "-P", "-m", "services.cli", "up", "-c", str(path.resolve())]
    # without colours: `_await_ready` parses the output
    plain = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"} | {"NO_COLOR": "1"}
    with log.open("ab") as output, log.open("rb") as written:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=plain, start_new_session=True
        )
        try:
            _await_ready(process, written, log)
        except BaseException:
            process.terminate()
            process.wait(DOWN_SECONDS)
            raise
    _print_ready(config)


def _await_ready(process: subprocess.Popen[bytes], output: IO[bytes], log: Path) -> None:
    """Wait until the service reports in ``output``, the open file ``log``, that it is ready. Print its progress.

    Raises:
        NotReady: the process ended, with its last lines of output; or the service is not ready after `DETACHED_SECONDS`.
    """
    deadline = time.monotonic() + DETACHED_SECONDS
    shown = 0
    while time.monotonic() < deadline:
        output.seek(0)
        text = output.read().decode(errors="replace")
        for raw in text[shown:].splitlines(keepends=True):
            if not raw.endswith("\n"):  # still being written
                break
            shown += len(raw)
            line = f"baton: {_message_of(raw)}" if raw.startswith("{") else logs.without_stamp(raw)
            if line.startswith(("ready ", "baton: ready ")):
                return
            if line.startswith("baton: "):
                _print_progress(line.rstrip())
        if process.poll() is not None:
            said = [logs.without_stamp(line) for line in text.splitlines() if line.strip()]
            lines = [line for line in said if not line.startswith("baton: ")]
            reason = "\n".join(map(_message_of, lines[-OUTPUT_LINES:])).removeprefix("error: ")
            raise NotReady(reason or f"the service ended without an error message; its output is in {log}")
        time.sleep(0.1)
    raise NotReady(f"the service is not ready after {DETACHED_SECONDS:.0f} s; its output is in {log}")


def _message_of(line: str) -> str:
    """Return the message of a log line that is a JSON object, and any other line as it is."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(line)["message"])
    return line
