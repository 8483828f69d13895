"""Commands that only read, while no service runs: the answers of the service, from the database, which stays as it is."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command as alembic
from fastapi.testclient import TestClient

from baton.config.file import BatonConfig
from baton.errors import RegistryError
from baton.store import database
from baton.store.migrations import upgrade
from baton.store.records import RunState
from baton.store.registry import Registry
from services.control.api.app import build_api
from services.host import offline
from tests.support.local_control import LocalControl, configured, control_of, decide, publish
from tests.support.stores import Postgres
from tests.support.waiting import free_port


@pytest.fixture
def config(tmp_path: Path) -> BatonConfig:
    """A configuration in a file, of a service that does not run."""
    config = configured(tmp_path, "m", "idle")
    config = config.model_copy(update={"http": config.http.model_copy(update={"port": free_port()})})
    (tmp_path / "baton.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    return config


@pytest.fixture
def control(config: BatonConfig) -> LocalControl:
    """The control plane over a database with a history."""
    control = control_of(config)
    registry = control.registry
    for right in (80, 95):
        run = registry.runs.create("m", {}, started=True)
        version = publish(registry, "m", right, run.id)
        registry.promote(decide(registry, "m", version.number), registry.champion("m"))
        registry.runs.finish(run.id, RunState.SUCCEEDED)
    registry.retrain.pause("m", "the labels are being cleaned")
    return control


def baton(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("BATON_", "RAY_"))}
    command = [sys.executable, "-m", "services.cli", *arguments, "-c", str(directory / "baton.yaml")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_the_report_of_a_run_about_its_data_is_shown(config: BatonConfig, control: LocalControl, tmp_path: Path):
    run = control.registry.runs.create("m", {}, started=True).id
    finding = {"level": "warning", "what": "quarantined", "rows": 7, "examples": ["feedback 3: no label"]}
    split = {
        "name": "train",
        "source": "t.csv",
        "rows": 90,
        "labels": {"a": 50, "b": 40},
        "scripts": {"Latin": 1.0},
        "tokens": None,
    }
    report = {"task": "classification", "splits": [split], "findings": [finding], "usable": True, "max_length": 128}
    control.registry.runs.report(run, "preparing", {"data": report})
    shown = baton(tmp_path, "data", "m", "--run", run)
    assert shown.returncode == 0, shown.stderr
    assert "train: 90 rows of t.csv" in shown.stdout
    assert "warning  7 rows: quarantined\n    feedback 3: no label\n    … and 6 more" in shown.stdout
    assert json.loads(baton(tmp_path, "data", "m", "--run", run, "--json").stdout) == report
    other = baton(tmp_path, "data", "idle", "--run", run)
    assert (other.returncode, f"--run: {run} is no run of idle; `baton runs idle` lists them" in other.stderr) == (1, True)


def api(control: LocalControl, path: str) -> Any:
    with TestClient(build_api(control, offline._nothing), base_url="http://localhost") as client:
        return client.get(path).json()


def contents(directory: Path) -> dict[str, str]:
    """All files, by their content; not those that SQLite shares between processes."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.suffix not in (".db-shm", ".db-wal"))
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["history", "m"], "/api/models/m/history"),
        (["versions", "m"], "/api/models/m/versions"),
        (["runs", "m"], "/api/models/m/runs"),
        (["datasets", "m"], "/api/models/m/datasets"),
        (["live", "m"], "/api/models/m/live"),
        (["feedback", "m", "--changes"], "/api/models/m/feedback/changes"),
        (["retrain", "m"], "/api/models/m/retrain"),
    ],
)
def test_a_command_answers_as_the_service_does_and_leaves_the_database_alone(control, config, tmp_path, arguments, path):
    expected = api(control, path)
    control.registry.close()  # the last connection: SQLite's journal is in the database now
    before = contents(tmp_path)
    done = baton(tmp_path, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected.get("items", expected)
    assert done.stderr == f"no service runs at http://127.0.0.1:{config.http.port}; this is from its database\n"
    assert contents(tmp_path) == before


def test_the_status_has_no_replicas_and_says_that_nothing_runs(control, config, tmp_path):
    done = baton(tmp_path, "status", "--json")
    told = json.loads(done.stdout)
    assert (told["running"], told["ports"], told["url"]) == (False, {}, f"http://127.0.0.1:{config.http.port}")
    models = {model["name"]: (model["champion"], model["replicas"]) for model in told["models"]}
    assert models == {"m": (2, []), "idle": (None, [])}
    shown = baton(tmp_path, "status")
    assert ("Baton at" in shown.stdout, "v2" in shown.stdout, "this is from its database" in shown.stderr) == (
        False,
        True,
        True,
    )


def test_mistakes_are_told_as_by_the_service(control, tmp_path):
    done = baton(tmp_path, "history", "nobody")
    assert (done.returncode, "unknown model 'nobody'; declared models: m, idle" in done.stderr) == (1, True)
    done = baton(tmp_path, "report", "m", "7")
    assert (done.returncode, "m has no version 7; its versions go from 1 to 2" in done.stderr) == (1, True)


def test_commands_that_change_something_still_need_the_service(control, tmp_path):
    for arguments in (["promote", "m", "1"], ["rollback", "m"], ["retrain", "m", "--resume"], ["train", "m"]):
        done = baton(tmp_path, *arguments)
        assert (done.returncode, "start it with `baton up`" in done.stderr) == (1, True), arguments
    with offline.connect(control.config, "http://127.0.0.1:1") as client, pytest.raises(Exception, match="no service runs"):
        client.post("/api/models/m/runs")


def test_no_database_is_created(config, tmp_path):
    before = contents(tmp_path)
    done = baton(tmp_path, "history", "m")
    assert (done.returncode, "start it with `baton up`" in done.stderr) == (1, True)
    assert contents(tmp_path) == before


def test_an_older_database_is_told_and_not_migrated(config, tmp_path):
    engine = database.connect(config.database)
    with engine.begin() as connection:
        (alembic_config := upgrade._alembic()).attributes["connection"] = connection
        alembic.upgrade(alembic_config, upgrade._revisions()[1])
    engine.dispose()
    before = contents(tmp_path)
    done = baton(tmp_path, "history", "m")
    new, old = upgrade._revisions()[:2]
    said = f"the database is at schema {old!r}, this code needs {new!r}; `baton up` migrates it"
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert contents(tmp_path) == before


def test_postgresql_refuses_writes_of_a_reader_itself(postgres: Postgres, migrated: str):
    name = postgres.create(migrated)
    registry = Registry(postgres.url(name), read_only=True)
    registry.check()
    with pytest.raises(RegistryError, match="read-only transaction"):
        registry.declare_model("m")
    registry.close()
    postgres.drop(name)


def test_sqlite_refuses_writes_of_a_reader_itself(control):
    registry = Registry(control.config.database, read_only=True)
    with pytest.raises(RegistryError, match="readonly database"):
        registry.declare_model("other")
    registry.close()


def test_models_that_no_service_has_declared_yet_hide_no_others(config, control, tmp_path):
    """`baton keys create` makes a database, too; `status` then answered «unknown model»."""
    (tmp_path / "baton.yaml").write_text(json.dumps(with_model(config, "new")))
    assert [it["name"] for it in json.loads(baton(tmp_path, "status", "--json").stdout)["models"]] == ["m", "idle"]
    file = {**with_model(config, "new"), "database": f"sqlite:///{tmp_path}/other.db"}
    (tmp_path / "baton.yaml").write_text(json.dumps(file))
    assert baton(tmp_path, "keys", "create", "operator", "--scope", "operate").returncode == 0
    done = baton(tmp_path, "status")
    assert (done.returncode, "its database knows none of the models yet; `baton up` declares them" in done.stderr) == (1, True)


def with_model(config: BatonConfig, name: str) -> dict[str, Any]:
    """The content of a file that declares another model besides."""
    content = config.model_dump(mode="json")
    return {**content, "models": [*content["models"], {**content["models"][0], "name": name}]}
