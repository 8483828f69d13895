"""The `baton` command: help for everything, mistakes on one line, and JSON that scripts can read."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import typer.main
import uvicorn
import yaml
from typer.testing import CliRunner

from baton import installation
from baton.artifacts.frozen import QUARANTINE, to_lines
from baton.artifacts.storage import Storage
from baton.config.file import HttpSettings, load_config
from baton.config.model_settings import ModelSettings
from baton.errors import Conflict
from baton.quality.trials import TrialCounts, TrialFeedback
from baton.store.records import HistoryKind, RolloutState, RunState
from services.cli import app, run_commands
from services.cli.operating import service_commands
from services.client import Client
from services.control import loops
from services.control.api.app import build_api
from services.control.rollouts.evidence import Evidence
from services.host import offline, readiness
from services.host.checks import network
from services.host.instance import Instance, StateDirectory, start_of
from services.replica.replica import ModelReplica
from tests.report.cases import win
from tests.support import replica as replicas
from tests.support.growing import three_versions
from tests.support.local_control import LocalControl, configured, control_of, decide, publish
from tests.support.tiny import save_classifier
from tests.support.waiting import free_port, until

GOOD = {"models": [{"name": "m", "task": "classification", "data": {"train": "train.jsonl"}}]}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Baton = Callable[..., Done]


@pytest.fixture
def baton(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Baton:
    """The command as the shell would run it, in this process."""
    for variable in ("BATON_CONFIG", "BATON_URL", "BATON_DATABASE", "BATON_STORAGE", "RAY_ADDRESS", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str | Path | int) -> Done:
        monkeypatch.setattr(sys, "argv", ["baton", *map(str, arguments)])
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return run


def write(directory: Path, content: Any) -> Path:
    path = directory / "baton.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def words(text: str) -> str:
    """Text as one line, whatever the width of the terminal."""
    return " ".join(text.replace("│", " ").split())


def failed(done: Done) -> str:
    """The message of a command that failed as it should: exit status 1, on stderr, no traceback."""
    assert done.code == 1, done
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err + done.out
    return done.err.removeprefix("error: ").strip()


# --- help ----------------------------------------------------------------------------------------------------------------


def test_the_version_is_printed(baton):
    done = baton("--version")
    assert (done.code, done.out) == (0, f"baton {installation.version()}\n")


def commands() -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}

    def walk(path: tuple[str, ...], command: Any) -> None:
        found[path] = command
        for name, inner in getattr(command, "commands", {}).items():
            walk((*path, name), inner)

    walk((), typer.main.get_command(app.app))
    return found


COMMANDS = commands()


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "baton")
def test_every_command_and_every_option_of_it_is_explained(baton, path):
    done = baton(*path, "--help")
    assert done.code == 0
    assert words(COMMANDS[path].help.split("\n\n")[0].replace("**", "").replace("`", ""))[:60] in words(done.out)
    for parameter in COMMANDS[path].params:
        assert parameter.help, f"{parameter.name} has no help"
        assert words(parameter.help)[:15] in words(done.out)


def test_the_command_line_loads_neither_a_database_nor_a_framework_before_a_command_needs_it():
    heavy = ("alembic", "datasets", "fastapi", "pandas", "pyarrow", "ray", "scipy", "sqlalchemy", "torch", "transformers")
    script = f"import sys, services.cli.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_commands_of_the_daily_work_are_there():
    names = {path[0] for path in COMMANDS if path}
    expected = {
        "up",
        "down",
        "status",
        "train",
        "runs",
        "cancel",
        "versions",
        "datasets",
        "promote",
        "rollback",
        "history",
        "predict",
        "feedback",
        "live",
        "demo",
    }
    assert expected <= names


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian", "m"], "No such command 'trian'"),
        (["train"], "Missing argument 'MODEL'"),
        (["promote", "m", "two"], "unable to parse string as an integer"),
        (["promote", "m", "0"], "should be greater than or equal to 1"),
        (["runs", "m", "--limit", "501"], "should be less than or equal to 500"),
        (["status", "--jsn"], "No such option"),
    ],
)
def test_a_mistyped_command_is_told_and_ends_with_status_2(baton, arguments, expected):
    done = baton(*arguments)
    assert done.code == 2
    assert expected in words(done.err)


# --- config --------------------------------------------------------------------------------------------------------------


def test_a_good_configuration_is_valid(baton, tmp_path):
    done = baton("config", "check", "-c", write(tmp_path, GOOD))
    assert done.code == 0
    assert words(done.out).endswith("is valid: 1 model: m")


def test_a_configuration_for_postgresql_is_valid_also_where_its_driver_is_not_installed(baton, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    done = baton("config", "check", "-c", write(tmp_path, {**GOOD, "database": "postgresql+psycopg://baton@db/baton"}))
    assert (done.code, "is valid: 1 model: m" in words(done.out)) == (0, True), done.err


def test_missing_data_files_are_told_and_are_no_mistake(baton, tmp_path):
    done = baton("config", "check", "-c", write(tmp_path, GOOD))
    assert done.code == 0
    missing = GOOD["models"][0]["data"]["train"]
    assert f"m: data.train: {tmp_path / missing} does not exist on this machine" in words(done.err)
    for name in GOOD["models"][0]["data"].values():
        (tmp_path / name).write_text("")
    assert words(baton("config", "check", "-c", tmp_path / "baton.yaml").err) == ""


def test_every_mistake_of_a_configuration_is_told_at_once(baton, tmp_path):
    bad = {"http": {"port": 0}, "models": [{**GOOD["models"][0], "trainng": {}, "task": "poetry"}]}
    told = failed(baton("config", "check", "-c", write(tmp_path, bad)))
    assert "3 mistakes" in told
    assert "http.port: 0 is not allowed" in told
    assert "models[0].task: 'poetry' is not allowed" in told
    assert "models[0].trainng: unknown key; did you mean 'training'?" in told


def test_a_password_in_the_databases_url_is_not_shown(baton, tmp_path, monkeypatch):
    monkeypatch.setenv("BATON_DATABASE", "postgresql+psycopg://baton:Xanthippe@db.example.org/baton")
    shown = baton("config", "show", "-c", write(tmp_path, GOOD))
    assert shown.json["database"] == "postgresql+psycopg://baton:***@db.example.org/baton"
    assert "Xanthippe" not in shown.out + shown.err


def test_the_configuration_in_force_is_shown_with_defaults_and_overrides(baton, tmp_path, monkeypatch):
    monkeypatch.setenv("BATON_HTTP_PORT", "9001")
    shown = baton("config", "show", "-c", write(tmp_path, GOOD)).json
    assert shown["http"] == {"host": "127.0.0.1", "port": 9001}
    assert shown["models"][0]["training"]["batch_size"] == 32
    assert shown["storage"] == str(tmp_path / ".baton/storage")


def test_the_schema_is_json_that_knows_the_file(baton):
    schema = baton("config", "schema").json
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert {"models", "storage", "database", "http"} <= set(schema["properties"])


@pytest.mark.parametrize("arguments", [["config", "check"], ["config", "show"], ["status"], ["up"], ["train", "m"]])
def test_a_missing_configuration_is_told_how_to_name_one(baton, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert failed(baton(*arguments)) == "no configuration at baton.yaml; name one with -c FILE or BATON_CONFIG"


def test_the_environment_names_the_configuration(baton, tmp_path, monkeypatch):
    monkeypatch.setenv("BATON_CONFIG", str(write(tmp_path, GOOD)))
    assert baton("config", "check").code == 0
    (tmp_path / "other.yaml").write_text("models: []")
    assert "models: declare at least one model" in failed(baton("config", "check", "-c", tmp_path / "other.yaml"))


def test_a_configuration_with_mistakes_starts_nothing(baton, tmp_path):
    path = write(tmp_path, {"models": []})
    assert "declare at least one model" in failed(baton("up", "-c", path))
    assert list(tmp_path.iterdir()) == [path]


def test_the_installed_command_ends_like_this_one(tmp_path):
    script = Path(sys.executable).with_name("baton")
    path = write(tmp_path, {"models": []})
    done = subprocess.run([script, "config", "check", "-c", path], capture_output=True, text=True, check=False)
    assert "models: declare at least one model" in failed(Done(done.returncode, done.stdout, done.stderr))
    done = subprocess.run([script, "config", "schema"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["properties"]


def test_piped_output_is_as_wide_as_columns_says_and_else_wide(tmp_path):
    path = write(tmp_path, GOOD)
    command = [sys.executable, "-m", "services.cli", "config", "check", "-c", path]
    usual = {key: value for key, value in os.environ.items() if key != "COLUMNS"}

    def widest(environment: dict[str, str]) -> int:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return max(len(line) for line in done.stdout.splitlines())

    assert widest({**usual, "COLUMNS": "30"}) <= 30 < widest(usual)


# --- no service ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "--json"],
        ["train", "m"],
        ["train", "m", "--wait"],
        ["runs", "m"],
        ["cancel", "m-1"],
        ["versions", "m"],
        ["datasets", "m"],
        ["datasets", "m", "1"],
        ["datasets", "m", "--diff", "1", "2"],
        ["promote", "m", "1"],
        ["rollback", "m"],
        ["history", "m"],
        ["predict", "m", "hello"],
        ["live", "m"],
    ],
    ids=" ".join,
)
def test_without_a_service_the_way_to_start_it_is_told(baton, tmp_path, arguments):
    path = write(tmp_path, {**GOOD, "http": {"port": 1}})  # where nobody listens
    done = baton(*arguments, "-c", path)
    told = failed(done)
    assert told.startswith("Baton does not answer at http://127.0.0.1:1 (")
    assert told.endswith("); start it with `baton up`")
    assert done.out == ""


def test_stopping_what_does_not_run_is_no_failure(baton, tmp_path):
    done = baton("down", "-c", write(tmp_path, GOOD))
    assert (done.code, done.out.strip()) == (0, "nothing is running")


def test_ctrl_c_while_the_command_line_loads_ends_it_without_a_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")  # what the import of a library then does
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "services.cli", "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        (False, "the service goes on stopping by itself; "),
        (True, "the service has ended, but some of its processes may still run; "),
    ],
)
def test_ctrl_c_while_a_service_stops_tells_what_goes_on(baton, tmp_path, monkeypatch, ends, expected):
    handle = "pass" if ends else "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    script = f"import signal, time; {handle}; print('up', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        service.stdout.readline()
        started = start_of(psutil.Process(service.pid))
        where: dict[str, Any] = {"url": "http://127.0.0.1:1", "ports": {}, "address": "", "directory": str(tmp_path)}
        record = Instance(id="00000000", pid=service.pid, started_after_boot=started, **where)
        StateDirectory(tmp_path / ".baton").write(record)

        def interrupted(*_: object) -> bool:
            if ends:
                service.wait()
            raise KeyboardInterrupt

        monkeypatch.setattr(service_commands, "wait_for_exit", interrupted)
        done = baton("down", "-c", write(tmp_path, GOOD))
        service.kill()
    assert (done.code, words(done.err)) == (130, f"{expected}`baton down` waits for it and stops what is left")
    assert StateDirectory(tmp_path / ".baton").read() == record


# --- a service -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(application: Any, host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of a real HTTP server for an ASGI application, in a thread."""
    server = uvicorn.Server(uvicorn.Config(application, host=host, port=0, log_level="warning", ws="none"))
    ready = threading.Event()
    started = server.startup

    async def startup(sockets: Any = None) -> None:
        await started(sockets)
        ready.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(30)
        assert server.started
        yield HttpSettings(host=host, port=server.servers[0].sockets[0].getsockname()[1]).url
    finally:
        server.should_exit = True
        thread.join()


@dataclass(frozen=True)
class Service:
    """The control plane behind a real server, and the command line on it."""

    control: LocalControl
    url: str
    run: Baton

    def __call__(self, *arguments: str | int) -> Done:
        return self.run(*arguments)

    def ok(self, *arguments: str | int) -> Done:
        done = self.run(*arguments)
        assert done.code == 0, done
        return done


@pytest.fixture
def service(baton: Baton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Model ``m`` with version 1 (60 % right), the champion, and versions 2 (90 %) and 3 (50 %)."""
    monkeypatch.setattr(loops, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(run_commands, "POLL_SECONDS", 0.01)
    config = configured(tmp_path, "m")
    control = control_of(config)
    for right in (60, 90, 50):
        publish(control.registry, "m", right)
    control.registry.promote(decide(control.registry, "m", 1), control.registry.champion("m"))
    control.replicas.serving["m"] = 1
    with serving(control.__serve_build_asgi_app__()) as url:
        path = write(tmp_path, yaml.safe_load(config.model_dump_json()))
        monkeypatch.setenv("BATON_CONFIG", str(path))
        monkeypatch.setenv("BATON_URL", url)
        yield Service(control, url, baton)


def test_the_status_is_told_to_people_and_to_scripts(service):
    told = service.ok("status", "--json").json
    assert told["url"] == service.url
    [model] = told["models"]
    assert (model["name"], model["champion"], model["replicas"][0]["version"]) == ("m", 1, 1)
    text = words(service.ok("status").out)
    assert service.url in text
    assert "m classification v1" in text
    assert "1/1 on v1" in text


def test_a_service_on_an_ipv6_address_is_asked_there(service, baton, tmp_path, monkeypatch):
    monkeypatch.delenv("BATON_URL")
    with serving(build_api(service.control, offline._nothing), "::1") as url:
        port = int(url.rpartition(":")[2])
        place = tmp_path / "six"
        place.mkdir()
        file = write(place, {**GOOD, "http": {"host": "::1", "port": port}})
        assert baton("status", "--json", "-c", file).json["url"] == f"http://[::1]:{port}"
        assert readiness._answers(url)
        [problem] = network.service(load_config(file, {}), StateDirectory(place / ".baton"))
        assert f"port {port} is taken by" in problem.text


def test_a_watched_status_is_printed_when_it_changes_and_tells_outages(service, monkeypatch):
    ask, printed = service_commands._ask_status, []
    events = iter(
        [
            lambda: None,
            lambda: None,
            lambda: printed.append(service.ok("promote", "m", 2).out),  # with what was printed until then
            lambda: None,
            lambda: monkeypatch.setenv("BATON_URL", f"http://127.0.0.1:{free_port()}"),
            lambda: None,
        ]
    )

    def next_look(*arguments: Any) -> Any:
        try:
            next(events)()
        except StopIteration:
            raise KeyboardInterrupt from None
        return ask(*arguments)

    monkeypatch.setattr(service_commands, "WATCH_SECONDS", 0)
    monkeypatch.setattr(service_commands, "_ask_status", next_look)
    done = service("status", "--watch")
    assert done.code == 0
    before, after = printed[0], done.out
    times = [len(re.findall(r"^\d\d:\d\d:\d\d$", text, re.MULTILINE)) for text in (before, after)]
    assert times == [1, 2], "each picture is printed once"
    assert "1/1 on v1" in before
    assert after.index("1/1 on v2") < after.index("Baton does not answer at")
    assert "\x1b" not in before + after
    assert "exclude each other" in failed(service("status", "--watch", "--json"))


def test_a_watched_database_is_opened_once_until_a_service_listens(service, baton, tmp_path, monkeypatch):
    """Each look built the whole API anew, and wrote into the picture that no service runs."""
    opened, ask = [], service_commands._ask_status
    connect = offline.connect
    monkeypatch.setattr(offline, "connect", lambda *arguments: opened.append(1) or connect(*arguments))
    monkeypatch.setattr(service_commands, "WATCH_SECONDS", 0)
    monkeypatch.delenv("BATON_URL")
    port = free_port()
    service.control.registry.close()
    config = service.control.config
    file = tmp_path / "baton.yaml"
    stored = config.model_copy(update={"http": config.http.model_copy(update={"port": port})})
    file.write_text(json.dumps(stored.model_dump(mode="json")))
    looks: list[dict[str, Any]] = []

    def look(*arguments: Any) -> Any:
        if len(looks) == 3:
            monkeypatch.setenv("BATON_URL", service.url)
            monkeypatch.setattr(service_commands, "listens", lambda _: True)
        if len(looks) == 4:
            raise KeyboardInterrupt
        looks.append(ask(*arguments))
        return looks[-1]

    monkeypatch.setattr(service_commands, "_ask_status", look)
    done = baton("status", "--watch", "-c", file)
    assert (done.code, done.err, len(opened)) == (0, "", 1)
    assert done.out.count(f"no service runs at http://127.0.0.1:{port}; this is from its database") == 1
    assert [it["running"] for it in looks] == [False, False, False, True]


def test_the_line_that_says_that_the_service_is_ready_names_the_console(service, capsys):
    service_commands._print_ready(service.control.config)
    url = service.control.config.http.url
    assert capsys.readouterr().out == (f"ready at {url}  console: {url}/  API: {url}/docs  models: {url}/models/NAME\n")


def test_a_watched_status_in_a_terminal_is_redrawn_and_ctrl_c_ends_it_cleanly(service):
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "services.cli", "status", "--watch"]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, env={**os.environ, "TERM": "xterm"}
    )
    os.close(terminal)
    shown = b""
    try:
        while shown.count(b"Ctrl-C ends") < 2:  # it was drawn twice
            shown += os.read(main, 65536)
        os.kill(process.pid, signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the process has ended, and nobody has the terminal open
            while more := os.read(main, 65536):
                shown += more
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)
    assert b"on v1" in shown
    assert b"Traceback" not in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is there again"


def complete(line: str) -> list[str]:
    """What bash offers for a line, by the program that it runs for that."""
    result = CliRunner().invoke(
        app.app,
        prog_name="baton",
        env={"_BATON_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
    )
    assert result.exit_code == 0, result.output
    return result.output.split()


def test_the_shell_completes_models_and_versions_of_the_service(service):
    assert complete("baton versions ") == ["m"]
    assert complete("baton versions x") == []
    assert complete("baton report m ") == ["3", "2", "1"]
    assert complete("baton promote m 2") == ["2"]
    assert complete("baton report nobody ") == []
    assert "report" in complete("baton rep")


def test_the_shell_completes_nothing_where_no_service_answers(service, monkeypatch, tmp_path):
    monkeypatch.setenv("BATON_URL", f"http://127.0.0.1:{free_port()}")
    assert complete("baton versions ") == []
    assert complete("baton report m ") == []
    monkeypatch.delenv("BATON_URL")
    monkeypatch.setenv("BATON_CONFIG", str(tmp_path / "nothing.yaml"))
    assert complete("baton versions ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_can_be_shown(shell):
    result = CliRunner().invoke(app.app, prog_name="baton", env={"_BATON_COMPLETE": f"source_{shell}"})
    assert result.exit_code == 0
    assert "_BATON_COMPLETE" in result.output


def test_versions_are_listed_and_the_champion_is_marked(service):
    items = service.ok("versions", "m", "--json").json
    assert [(item["number"], item["champion"]) for item in items] == [(3, False), (2, False), (1, True)]
    assert [item["number"] for item in service.ok("versions", "m", "--limit", 1, "--json").json] == [3]
    text = service.ok("versions", "m").out
    assert [line.split()[0] for line in text.splitlines()[1:-1]] == ["v3", "v2", "★"]
    assert text.splitlines()[-1] == "no match yet on this holdout; 5.0% of false promotions allowed in all"


def test_a_run_is_started_listed_and_cancelled(service):
    run = service.ok("train", "m", "--set", "training.epochs=9", "--json").json
    assert (run["state"], run["spec"]["training"]["epochs"]) == ("queued", 9)
    assert service.ok("runs", "m", "--json").json[0]["id"] == run["id"]
    assert run["id"] in words(service.ok("runs", "m").out).replace(" ", "")
    assert f"run {run['id']} is active" in failed(service("train", "m"))
    assert service.ok("cancel", run["id"], "--json").json["state"] == "cancelled"
    assert failed(service("cancel", run["id"])) == f"run {run['id']} is over: cancelled"


def test_one_idempotency_key_starts_one_run(service):
    first, second = (service.ok("train", "m", "--idempotency-key", "k", "--json").json["id"] for _ in range(2))
    assert first == second


def test_a_version_that_wins_is_promoted_and_rolled_back(service):
    told = service.ok("promote", "m", 2, "--json").json
    assert (told["decision"]["verdict"], told["promotion"]["version"]) == ("promote", 2)
    assert service.ok("rollback", "m", "--reason", "complaints", "--json").json["promotion"]["version"] == 1
    [latest, *_] = service.ok("history", "m", "--json").json
    assert (latest["what"], latest["version"]) == ("rolled back", 1)
    assert "complaints" in latest["text"]
    promoted = words(service.ok("promote", "m", 2).out)
    assert promoted.startswith("Promote: v2 (F1 0.9"), promoted
    assert promoted.endswith(" v2 is serving."), promoted
    assert words(service.ok("rollback", "m").out).startswith("Rolled back to v1 in place of v2. Reason: ")
    assert "rolled back" in words(service.ok("history", "m").out)


def test_a_version_is_rejected_once_which_ends_its_trial_and_is_marked(service):
    service.ok("canary", "m", 2)
    told = "v2 of m will not take over. Its canary has ended. Reason: it insults people"
    assert words(service.ok("reject", "m", 2, "--reason", "it insults people").out) == told
    again = words(service.ok("reject", "m", 2, "--reason", "it is rude").out)
    assert again == "v2 of m will not take over. Reason: it insults people"
    assert "✗ v2 was rejected: it insults people" in words(service.ok("versions", "m").out)
    rejected = [item["rejected"] for item in service.ok("versions", "m", "--json").json]
    assert rejected == [None, "it insults people", None]


def test_a_report_is_written_as_one_html_file_or_to_standard_output(service, tmp_path):
    report = win()["report"]
    Storage(service.control.config.storage).write_report("models/m/reports/one.json", json.dumps(report).encode())
    found = decide(service.control.registry, "m", 2)
    numbers = {**found.numbers, "report": "models/m/reports/one.json"}
    service.control.registry.add_decision(replace(found, id=None, numbers=numbers))
    file = tmp_path / "report.html"
    done = service.ok("report", "m", 2, "--html", file)
    assert (done.out, done.err) == ("", f"wrote {file}\n")
    text = file.read_text()
    assert text.startswith("<!doctype html>")
    assert found.sentence in text
    assert service.ok("report", "m", 2, "--html", "-").out == text
    chinese = service.ok("report", "m", 2, "--html", "-", "--language", "zh").out
    assert "无法定论" in chinese or "晋升" in chinese
    assert failed(service("report", "m", 2, "--html", file, "--json")).startswith("--html and --json exclude each other")
    nowhere = tmp_path / "nowhere" / "report.html"
    assert "No such file or directory; name a file in a directory that exists" in failed(
        service("report", "m", 2, "--html", nowhere)
    )
    assert service("report", "m", 2, "--html", "-", "--language", "xx").code == 2
    assert service.ok("report", "m", 2, "--json").json["report"] == report


def test_a_version_that_loses_ends_with_status_1_and_the_gates_sentence(service):
    done = service("promote", "m", 3)
    assert done.code == 1
    assert words(done.out).startswith("Refused: v3 (F1 0.500) against v1 (F1 0.600)")
    assert "gain -0.100, and more than 0 is required. v1 stays." in words(done.out)
    done = service("promote", "m", 3, "--json")
    assert done.code == 1
    assert done.json["decision"]["verdict"] == "reject"


def test_force_needs_a_reason_and_passes_the_gate(service):
    assert failed(service("promote", "m", 3, "--force")) == "force needs a reason; it stays in the history"
    assert service.ok("promote", "m", 3, "--force", "--reason", "[red]why[/] not", "--json").json["promotion"]["version"] == 3
    assert "Reason: [red]why[/] not" in words(service.ok("history", "m").out)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["versions", "nope"], "unknown model 'nope'; declared models: m"),
        (["train", "nope"], "unknown model 'nope'; declared models: m"),
        (["predict", "nope", "a"], "unknown model 'nope'; declared models: m"),
        (["promote", "m", "9"], "m has no version 9; its versions go from 1 to 3"),
        (["promote", "m", "1"], "v1 is already the champion of m"),
        (["rollback", "m"], "m has no earlier champion to roll back to"),
        (["cancel", "m-1"], "no run 'm-1'; `baton runs MODEL` lists them"),
        (["datasets", "nope"], "unknown model 'nope'; declared models: m"),
        (["datasets", "m", "9"], "m has no data set 9; it has none yet; a training run freezes the first"),
        (["datasets", "m", "--diff", "1", "2"], "m has no data set 2; it has none yet"),
        (
            ["datasets", "m", "1", "--diff", "1", "2"],
            "give NUMBER to show one version or --diff OLD NEW to compare two, not both",
        ),
        (["datasets", "m", "--diff", "1", "0"], "0"),
        (["canary", "m", "2", "--percent", "101"], "percent: 101 is not allowed for a canary; at most 50"),
        (["shadow", "m", "2", "--minutes", "0"], "minutes: 0.0 is not allowed; above 0"),
        (["train", "m", "--set", "training.epoch=5"], "training.epoch: unknown key; did you mean 'epochs'?"),
    ],
)
def test_what_the_service_refuses_is_told_in_its_words(service, arguments, expected):
    assert expected in failed(service(*arguments))


def test_data_sets_are_listed_with_what_feedback_gave_and_what_was_left_out(service, tmp_path):
    assert words(service.ok("datasets", "m").out) == "no data sets yet; a training run freezes the first"
    three_versions(service.control, tmp_path)
    assert [item["number"] for item in service.ok("datasets", "m", "--json").json] == [3, 2, 1]
    assert [item["number"] for item in service.ok("datasets", "m", "--limit", 1, "--json").json] == [3]
    rows = [words(line) for line in service.ok("datasets", "m").out.splitlines()]
    assert rows[0] == "data set train holdout traffic labels left out frozen"
    assert [row.rsplit(" ", 2)[0] for row in rows[1:]] == ["3 4 3 2 + 0 2 3", "2 5 3 new 2 + 0 2 3", "1 4 2 – 2 0"]


def test_one_data_set_is_shown_with_its_labels_conflicts_and_quarantine(service, tmp_path):
    three_versions(service.control, tmp_path)
    assert service.ok("datasets", "m", 2, "--json").json["number"] == 2
    text = words(service.ok("datasets", "m", 2).out)
    assert text.startswith("data set 2: 5 train rows, 3 holdout rows")
    assert "shipping 2 1 1 0" in text
    assert "1 contradicted, 1 set aside, 1 in quarantine" in text
    assert "1 text with different answers, settled by latest:" in text
    assert "'Refund, please': billing ×1, shipping ×1; kept shipping (latest, train)" in text
    assert "feedback 5: field 'label' is missing" in text


def test_the_quarantine_of_a_data_set_is_listed_whole(service, tmp_path):
    version = three_versions(service.control, tmp_path)[1]
    [told] = service.ok("datasets", "m", 2, "--quarantine", "--json").json
    assert (told["where"], told["reason"].split(";")[0]) == ("feedback 5", "field 'label' is missing")
    many = [{"where": f"feedback {number}", "reason": "because"} for number in range(1200)]
    Storage(service.control.config.storage).write_dataset(version.uri, {}, {QUARANTINE: to_lines(many)})
    listed = service.ok("datasets", "m", 2, "--quarantine").out.splitlines()
    assert [line.strip() for line in listed] == [f"{row['where']}: because" for row in many]
    assert service.ok("datasets", "m", 1, "--quarantine").out.strip() == "no rows in quarantine"
    assert (
        "--quarantine needs the number of a version: baton datasets m NUMBER --quarantine"
        in service.run("datasets", "m", "--quarantine").err
    )


def test_two_data_sets_are_compared_by_label_and_by_text(service, tmp_path):
    three_versions(service.control, tmp_path)
    told = service.ok("datasets", "m", "--diff", 1, 2, "--json").json
    assert (told["against"], told["number"], told["train"]["added"]) == (1, 2, {"billing": 1})
    text = words(service.ok("datasets", "m", "--diff", 1, 2).out)
    assert text.startswith("m: data set 1 → 2 train: 4 → 5 rows +1 added: billing 1 ~1 relabelled: billing → shipping 1")
    assert "~ 'Refund, please': billing → shipping" in text
    assert "holdout: 2 → 3 rows +1 added: billing 1" in text
    text = words(service.ok("datasets", "m", "--diff", 2, 3).out)
    assert "−1 removed: shipping 1 − 'where is my parcel?': shipping holdout: 3 → 3 rows nothing changed" in text


def test_a_url_that_is_no_baton_is_told_with_its_status(service, monkeypatch):
    async def stranger(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 502, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>bad gateway"})

    with serving(stranger) as url:
        monkeypatch.setenv("BATON_URL", url)
        assert failed(service("status")) == "HTTP status 502: <html>bad gateway"


# --- waiting for a run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def training(service: Service) -> Iterator[Callable[[Callable[[str], None]], None]]:
    """What runs do from now on, each in a thread as a job would."""
    threads: list[threading.Thread] = []

    def trains(work: Callable[[str], None]) -> None:
        def start(run_id: str) -> None:
            threads.append(threading.Thread(target=work, args=(run_id,)))
            threads[-1].start()

        service.control.jobs.on_run = start

    yield trains
    for thread in threads:
        thread.join()


def finished(service: Service, right: int) -> Callable[[str], None]:
    """A job that trains a version which answers ``right`` of 100 rows rightly."""

    def work(run_id: str) -> None:
        registry = service.control.registry
        registry.runs.start(run_id)
        progress = {"epoch": 1.0, "epochs": 3, "step": 10, "steps": 30, "loss": 0.5, "f1": 0.7, "seconds_left": 4.0}
        registry.runs.report(run_id, "training", progress)
        version = publish(registry, "m", right, run_id)
        decision = decide(registry, "m", version.number)
        registry.runs.finish(run_id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)

    return work


def test_waiting_for_a_winner_ends_when_it_serves(service, training):
    training(finished(service, 95))
    done = service.ok("train", "m", "--wait")
    assert words(done.out).startswith("Promote: v4 (F1 0.9")
    assert "v4 is serving." in done.out
    assert service.ok("status", "--json").json["models"][0]["champion"] == 4


def test_waiting_for_a_winner_gives_scripts_nothing_but_json(service, training):
    training(finished(service, 95))
    done = service.ok("train", "m", "--wait", "--json")
    assert done.err == ""
    run = done.json
    assert (run["state"], run["version"], run["decision"]["verdict"], run["rolled_out"]) == ("succeeded", 4, "promote", True)


def test_a_canary_is_begun_watched_and_ended(service):
    service.control.replicas.measured["m"] = TrialCounts(
        answers=9,
        late=1,
        champion_answers=81,
        compared=4,
        agreed=3,
        shift=0.5,
        ratios=(1.25,),
        examples=({"input": {"text": "my card"}, "champion": "cards (0.90)", "version": "billing (0.70)", "shift": 0.6},),
    )
    begun = words(service.ok("canary", "m", "2").out)
    assert begun.startswith("v2 answers 10% of the requests, beside v1, until it is ended.")
    assert "baton rollout m --stop" in begun
    shown = words(service.ok("rollout", "m").out)
    assert shown.startswith("v2 (canary, 10%): canary since")
    for part in (
        "v2 (canary) v1 (champion)",
        "answers 9 81",
        "failed 1 (1 late) 0",
        "4 inputs answered by both: 75.0% the same, mean difference of scores 0.125, 1.25 times the champion's time",
        "my card cards (0.90) billing (0.70) 0.600",
    ):
        assert part in shown, shown
    assert "v2: canary (10%)" in words(service.ok("status").out)
    ended = service.ok("rollout", "m", "--stop", "--reason", "seen enough", "--json").json
    assert (ended["state"], ended["reason"]) == ("rolled back", "seen enough")
    assert service.ok("shadow", "m", "3", "--percent", "5", "--minutes", "0.5").out.startswith(
        "v3 gets a copy of 5% of the requests, beside v1, for 0.5 min."
    )
    rollouts = service.control.registry.rollouts
    feedback = TrialFeedback(wrong=2, champion_wrong=0, f1=0.5, champion_f1=0.75, pairs=1400, champion_errors=4)
    rollouts.note(rollouts.active("m"), Evidence(feedback=feedback).stored())
    shown = words(service.ok("rollout", "m").out)
    assert shown.startswith("v3 (shadow, 5% for 0.5 min): shadow since"), shown
    assert "alone wrong, of 1,400 corrected 2 0 F1 by feedback 0.500 0.750" in shown, shown
    assert "Feedback does not judge yet: it has corrected too few errors of the champion (4)." in shown, shown

    def judges() -> bool:  # noted again each time: the watch may just be writing what it read before
        rollouts.note(rollouts.active("m"), Evidence(feedback=replace(feedback, champion_errors=5)).stored())
        return "does not judge yet" not in service.ok("rollout", "m").out

    until(judges, 20, "five errors of the champion are enough")
    rollouts.advance(rollouts.active("m"), RolloutState.SETTLED, "nothing speaks against it.")
    shown = words(service.ok("rollout", "m").out)
    assert "The champion stays; `baton promote m 3` asks the gate. v3 (shadow) v1 (champion then)" in shown, shown


def test_a_canary_of_a_version_that_the_gate_refused_begins_with_a_warning(service):
    assert service("promote", "m", 3).code == 1
    begun = words(service.ok("canary", "m", 3).out)
    warning = "Warning: the gate did not let it take over. Refused: v3 (F1 0.500) against v1 (F1 0.600)"
    assert begun.startswith(f"v3 answers 10% of the requests, beside v1, until it is ended. {warning}"), begun
    service.ok("rollout", "m", "--stop")
    assert "Warning" not in service.ok("shadow", "m", 3).out


def test_the_warning_says_which_champion_the_gate_judged_against(service):
    assert service("promote", "m", 3).code == 1
    service.ok("promote", "m", 2)
    assert "the gate did not let it take over from v1. Refused" in words(service.ok("canary", "m", 3).out)


def test_a_second_rejection_says_that_the_first_reason_stays(service):
    service.ok("reject", "m", 3, "--reason", "worse")
    again = service.ok("reject", "m", 3, "--reason", "much worse")
    assert "Reason: worse" in words(again.out)
    assert words(again.err) == "It was rejected before: the first reason stays."


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("promote", "m", 3), "the promotion"),
        (("rollback", "m"), "the rollback"),
        (("reject", "m", 3, "--reason", "worse"), "the rejection"),
        (("canary", "m", 3), "the canary"),
        (("shadow", "m", 3), "the shadow"),
    ],
)
def test_ctrl_c_says_that_the_service_may_go_on(service, monkeypatch, arguments, what):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "post", interrupted)
    done = service.run(*arguments)
    assert (done.code, words(done.err)) == (130, f"{what} may go on; `baton status` and `baton history` show what happened")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["register", "m", " "], "DIRECTORY is empty; name a directory, a storage URL or the id of a model on the hub"),
        (["rollout", "m", "--reason", "enough"], "--reason says why the trial ends, and belongs to --stop"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(service, arguments, expected):
    done = service(*arguments)
    assert done.code == 2
    assert expected in words(done.err.replace("│", " "))


def test_a_winner_waits_for_the_version_that_is_on_trial(service, training):
    service.ok("canary", "m", "2")
    training(finished(service, 95))
    done = service.ok("train", "m", "--wait")
    assert "v4 waits: v2 is on trial, and v4 is judged again if it takes over: baton rollout m" in words(done.out)
    assert service.control.registry.champion("m").version == 1


def test_waiting_for_a_loser_ends_well_with_the_verdict(service, training):
    training(finished(service, 30))
    done = service.ok("train", "m", "--wait")
    assert words(done.out).startswith("Refused: v4 (F1 0.300) against v1 (F1 0.600)")
    assert [run["verdict"] for run in service.ok("runs", "m", "--json").json] == ["reject"]
    assert "succeeded v4 refused" in words(service.ok("runs", "m").out)
    assert service.control.registry.champion("m").version == 1


def test_waiting_for_a_winner_that_no_replica_can_load_ends_with_status_1_and_the_reason(service, training):
    service.control.replicas.broken[4] = "altered"
    training(finished(service, 95))
    done = service("train", "m", "--wait")
    assert done.code == 1
    assert "v4 cannot take over: 1 of 1 replica cannot load it: altered" in words(done.out)
    assert service.control.registry.champion("m").version == 1


def test_waiting_for_a_winner_that_somebody_rejects_ends_with_status_1_and_the_reason(service, training):
    """It used to wait for ever."""

    def work(run_id: str) -> None:
        registry = service.control.registry
        registry.runs.start(run_id)
        version = publish(registry, "m", 95, run_id)
        decision = decide(registry, "m", version.number)
        registry.history.add_incident("m", HistoryKind.REJECTED, "it insults people", version.number)
        registry.runs.finish(run_id, RunState.SUCCEEDED, version=version.number, decision_id=decision.id)

    training(work)
    done = service("train", "m", "--wait")
    assert done.code == 1
    assert "rejected: it insults people" in words(done.out)


def test_waiting_for_a_run_that_fails_ends_with_status_1_and_the_reason(service, training):
    def work(run_id: str) -> None:
        service.control.registry.runs.start(run_id)
        service.control.registry.runs.finish(run_id, RunState.FAILED, reason="train.jsonl: no such file [/]")

    training(work)
    done = service("train", "m", "--wait")
    assert done.code == 1
    assert "failed: train.jsonl: no such file [/]" in words(done.out)
    done = service("train", "m", "--wait", "--json")
    assert (done.code, done.json["reason"]) == (1, "train.jsonl: no such file [/]")


# --- predictions ---------------------------------------------------------------------------------------------------------


def test_a_served_model_is_asked(service, tiny_base, tmp_path, monkeypatch):
    labels: Sequence[str] = ("billing", "bug", "shipping")
    storage, registry = Storage(str(tmp_path / "storage")), service.control.registry
    registry.declare_model("answers")
    replicas.publish(registry, storage, "answers", save_classifier(tiny_base, labels, tmp_path / "classifier"), labels)
    replicas.force(registry, "answers", 1)
    settings = ModelSettings.model_validate(
        {
            "name": "answers",
            "task": "classification",
            "data": {"train": "nowhere"},
            "serving": {"precision": "fp32", "device": "cpu"},
        }
    )
    database = service.control.config.database
    replica = ModelReplica(settings.model_dump(mode="json"), database, storage.url, replica_id="r1")
    inner = replica.__serve_build_asgi_app__()

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/models/answers"}, receive, send)

    with serving(application) as url:
        monkeypatch.setenv("BATON_URL", url)
        texts = ["where is my [/red] parcel?", "a crash"]
        told = service.ok("predict", "answers", *texts, "--top-k", 2, "--json").json
        expected = httpx.post(f"{url}/models/answers", json={"inputs": texts, "parameters": {"top_k": 2}}).json()
        assert told["version"] == 1
        assert [[choice["label"] for choice in answer] for answer in told["answers"]] == [
            [choice["label"] for choice in answer] for answer in expected
        ]
        assert [len(answer) for answer in told["answers"]] == [2, 2]
        text = words(service.ok("predict", "answers", *texts).out)
        assert "where is my [/red] parcel?" in text
        assert "ms inference" in text
        assert failed(service("predict", "answers", " ")).startswith("inputs[0]: text is empty")


def test_a_runs_progress_names_its_trials_its_folds_and_the_loss_on_texts_held_back():
    from services.tables.show_runs import progress_text

    searching = {"trial": 3, "trials": 8, "f1": 0.5, "best_f1": 0.75, "best": {"epochs": 2}}
    assert progress_text(searching, "training") == "training  trials 3/8  F1 0.500  best F1 0.750"
    assert progress_text({"fold": 2, "folds": 5, "f1": 0.5}, "training") == "training  fold 2/5  F1 0.500"
    assert progress_text({"held_back_loss": 2.5}, "adapting") == "adapting  held-back loss 2.500"


def test_the_state_is_kept_where_the_environment_says(baton: Baton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "read-only" / "baton.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(GOOD))
    crashed = Instance(
        id="00000000",
        pid=2**22 + 1,
        started_after_boot=0,
        url="http://127.0.0.1:1",
        ports={},
        address="",
        directory=str(tmp_path / "ray"),
    )
    state = StateDirectory(tmp_path / "state")
    state.write(crashed)
    assert baton("down", "-c", file).out.strip() == "nothing is running"
    monkeypatch.setenv("BATON_STATE", str(tmp_path / "state"))
    assert baton("down", "-c", file).out.strip() == "stopped"
    assert state.read() is None
    assert list(file.parent.iterdir()) == [file]


def test_a_service_that_is_starting_is_not_said_to_be_down(baton: Baton, tmp_path: Path) -> None:
    port = free_port()
    file = write(tmp_path, {**GOOD, "http": {"port": port}})
    url = f"http://127.0.0.1:{port}"
    assert failed(baton("status", "-c", file)).endswith("start it with `baton up`")
    me = psutil.Process()
    starting = Instance(
        id="00000000", pid=me.pid, started_after_boot=start_of(me), url=url, ports={}, address="", directory=str(tmp_path)
    )
    StateDirectory(tmp_path / ".baton").write(starting)
    said = f"Baton is starting at {url} (process {me.pid}) and does not answer yet"
    assert failed(baton("status", "-c", file)) == said


def test_commands_ask_the_service_that_was_started_from_here_whatever_its_port(
    service: Service, baton: Baton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BATON_URL")
    place = tmp_path / "elsewhere"
    place.mkdir()
    file = write(place, {**GOOD, "http": {"port": free_port()}})
    me = psutil.Process()
    running = Instance(
        id="00000000",
        pid=me.pid,
        started_after_boot=start_of(me),
        url=service.url,
        ports={"dashboard": 1, "metrics": 2},
        address="",
        directory=str(place),
    )
    StateDirectory(place / ".baton").write(running)
    assert service.url in words(baton("status", "-c", file).out)


def test_of_two_that_start_from_one_place_the_second_is_refused(tmp_path: Path) -> None:
    second = StateDirectory(tmp_path).claimed()
    with (
        StateDirectory(tmp_path).claimed(),
        pytest.raises(Conflict, match=r"another `baton up` is using .*; `baton status` shows its progress"),
        second,
    ):
        pass
    with StateDirectory(tmp_path).claimed():
        pass


def test_the_log_of_the_start_before_is_kept(baton: Baton, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    file = write(tmp_path, {**GOOD, "http": {"port": free_port()}, "storage": str(tmp_path / "taken" / "storage")})
    logs = StateDirectory(tmp_path / ".baton").logs
    logs.mkdir(parents=True)
    (logs / "up.log").write_text("how the one before crashed")
    assert "cannot write to storage" in failed(baton("up", "--detach", "-c", file))
    assert "cannot write to storage" in (logs / "up.log").read_text()
    assert (logs / "up.log.1").read_text() == "how the one before crashed"


def test_the_status_shows_that_retraining_is_paused(service: Service) -> None:
    service.ok("retrain", "m", "--pause", "the labels are being cleaned")
    assert "retraining is paused: the labels are being cleaned" in words(service.ok("status").out)
    service.ok("retrain", "m", "--resume")
    assert "paused" not in words(service.ok("status").out)


def test_cancelling_a_run_that_started_by_itself_says_that_another_will(service: Service) -> None:
    run = service.control.registry.runs.create("m", {}, cause="23 new corrections (20 wanted)")
    told = words(service.ok("cancel", run.id).out)
    assert told.startswith(f"run {run.id} is cancelled; its trigger (23 new corrections (20 wanted)) starts another run")
    assert "`baton retrain m --pause REASON` prevents that" in told
