"""`baton doctor`: what each check finds where something is wrong, that none hangs, and what the command says and returns."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from huggingface_hub import constants

from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig
from baton.store import database
from baton.store.registry import Registry
from services.host.checks import data, doctor, machine, network, software
from services.host.checks.finding import Finding, Level, ok
from services.host.instance import Instance, StateDirectory, start_of
from tests.support.local_control import configured
from tests.support.stores import S3, Postgres
from tests.support.waiting import free_port


def bad(findings: Iterator[Finding]) -> list[tuple[Level, str]]:
    found = list(findings)
    assert found
    assert all(finding.advice for finding in found if finding.level is not Level.OK)
    return [(finding.level, finding.text) for finding in found if finding.level is not Level.OK]


@pytest.fixture
def config(tmp_path: Path, tiny_base: Path) -> BatonConfig:
    (tmp_path / "train.jsonl").write_text("")
    config = configured(tmp_path, "m")
    [model] = config.models
    model = model.model_copy(
        update={"base_model": str(tiny_base), "data": model.data.model_copy(update={"train": str(tmp_path / "train.jsonl")})}
    )
    return config.model_copy(update={"models": (model,), "http": config.http.model_copy(update={"port": free_port()})})


def test_on_a_machine_that_is_as_it_should_be_nothing_is_found_and_nothing_is_changed(config, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    named = doctor.checks(config, StateDirectory(tmp_path / ".baton"), {})
    problems = [(name, finding.text) for name, finding in doctor.run(named) if finding.level is Level.PROBLEM]
    assert problems == []
    assert sorted(tmp_path.rglob("*")) == before


# --- stores --------------------------------------------------------------------------------------------------------------


def test_a_database_is_told_apart_by_what_it_lacks(config, tmp_path):
    assert bad(data.database(config)) == []  # not there yet
    registry = Registry(config.database)
    registry.migrate()
    registry.close()
    assert bad(data.database(config)) == []
    engine = database.connect(config.database)
    for version, level, text in (
        ("0001", Level.WARNING, "`baton up` migrates it"),
        ("9999", Level.PROBLEM, "upgrade Baton"),
    ):
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{version}'")
        [(found, said)] = bad(data.database(config))
        assert (found, text in said) == (level, True)
    engine.dispose()
    (tmp_path / "baton.db").write_bytes(b"not a database" * 100)
    [(found, said)] = bad(data.database(config))
    assert (found, "file is not a database" in said) == (Level.PROBLEM, True)


def test_a_server_whose_clock_differs_or_that_is_away_is_told_without_its_password(
    postgres: Postgres, migrated, config, monkeypatch
):
    name = postgres.create(migrated)
    served = config.model_copy(update={"database": postgres.url(name)})
    assert bad(data.database(served)) == []
    there = Registry.clock
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "clock", lambda registry: there(registry).replace(year=2030))
        [(level, text)] = bad(data.database(served))
        assert (level, "the clock of postgresql+psycopg://baton@" in text) == (Level.WARNING, True)
    postgres.drop(name)
    away = config.model_copy(update={"database": f"postgresql+psycopg://u:secret@127.0.0.1:{free_port()}/d"})
    [(level, text)] = bad(data.database(away))
    assert (level, "does not answer" in text, "secret" in text) == (Level.PROBLEM, True, False)


def test_a_storage_is_written_to_but_not_created(config, tmp_path, s3: S3, monkeypatch):
    assert bad(data.storage(config)) == []
    assert not (tmp_path / "storage").exists()
    Storage(config.storage).check_writable()
    assert bad(data.storage(config)) == []
    (tmp_path / "file").write_text("")
    beneath = config.model_copy(update={"storage": str(tmp_path / "file" / "storage")})
    [(level, _)] = bad(data.storage(beneath))
    assert level is Level.PROBLEM
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    assert bad(data.storage(config.model_copy(update={"storage": f"s3://{S3.BUCKET}/doctor"}))) == []
    [(level, text)] = bad(data.storage(config.model_copy(update={"storage": "s3://no-such-bucket/x"})))
    assert (level, "no-such-bucket" in text) == (Level.PROBLEM, True)


def test_files_and_base_models_that_are_not_here_are_named(config, tmp_path, monkeypatch):
    assert bad(data.data_files(config)) == bad(data.base_models(config)) == []
    (tmp_path / "train.jsonl").unlink()
    assert bad(data.data_files(config)) == [
        (Level.WARNING, f"m: data.train: {tmp_path}/train.jsonl does not exist on this machine")
    ]

    def based_on(name: str) -> BatonConfig:
        [model] = config.models
        return config.model_copy(update={"models": (model.model_copy(update={"base_model": name}),)})

    assert bad(data.base_models(based_on("sentence-transformers/all-MiniLM-L6-v2"))) == []
    [(level, text)] = bad(data.base_models(based_on(str(tmp_path))))
    assert (level, "no such directory with a model" in text) == (Level.PROBLEM, True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert [level for level, _ in bad(data.base_models(based_on("someone/nothing")))] == [Level.WARNING]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [level for level, _ in bad(data.base_models(based_on("someone/nothing")))] == [Level.PROBLEM]


# --- the machine ---------------------------------------------------------------------------------------------------------


def test_a_disk_shared_memory_and_memory_that_are_too_small_are_told(config, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    for free, level in ((0.1e9, Level.PROBLEM), (3e9, Level.WARNING)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
        assert {found for found, _ in bad(machine.disks(config, tmp_path))} == {level}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=64_000_000))
    assert bad(machine.shared_memory()) == [(Level.WARNING, "/dev/shm has 0.06 GB free")]
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(total=int(1e9)))
    [(level, text)] = bad(machine.memory(config))
    assert (level, text.startswith("1.0 GB of memory, and serving the declared models needs about ")) == (Level.PROBLEM, True)


def test_a_state_directory_that_cannot_be_written_to_is_told(tmp_path, monkeypatch):
    assert bad(machine.permissions(tmp_path / "a" / "b")) == []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) == machine.INSTANCES)
    levels = [(level, text.partition(" ")[0]) for level, text in bad(machine.permissions(tmp_path))]
    assert levels == [(Level.PROBLEM, str(tmp_path)), (Level.WARNING, f"{tmp_path / 'hub'},")]


def test_a_home_that_is_no_directory_is_told(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / ".cache" / "huggingface" / "hub"))
    [(level, text)] = bad(machine.permissions(tmp_path))
    assert (level, "where base models are downloaded to, cannot be written to" in text) == (Level.WARNING, True)


# --- software ------------------------------------------------------------------------------------------------------------


def test_libraries_that_are_missing_or_of_another_version_are_told_with_the_command(monkeypatch):
    monkeypatch.setattr(
        metadata, "requires", lambda _: ["pytest>=1", "pytest>=1000", "no-such-thing[a]>=2", 'other; extra == "x"']
    )
    found = list(software.libraries())
    assert [(it.level, it.advice) for it in found if it.level is not Level.OK] == [
        (Level.PROBLEM, "`pip install 'pytest>=1000'`"),
        (Level.PROBLEM, "`pip install 'no-such-thing[a]>=2'`"),
    ]


def test_a_model_that_wants_a_gpu_where_torch_sees_none_is_a_problem(config, tmp_path, monkeypatch):
    monkeypatch.setattr(software, "DEVICES", str(tmp_path))
    assert bad(software.gpu(config)) == []
    [model] = config.models
    wanting = config.model_copy(
        update={"models": (model.model_copy(update={"serving": model.serving.model_copy(update={"gpus": 1.0})}),)}
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    [(level, text)] = bad(software.gpu(wanting))
    assert (level, text.startswith("m asks for a GPU, and torch sees none (torch is built for ")) == (Level.PROBLEM, True)


# --- the network ---------------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_told_with_who_holds_it(config, tmp_path):
    state = StateDirectory(tmp_path / ".baton")
    assert bad(network.service(config, state)) == []
    with socket.create_server(("127.0.0.1", config.http.port)):
        [(level, text)] = bad(network.service(config, state))
    assert (level, f"port {config.http.port} is taken by " in text, f"pid {os.getpid()}" in text) == (Level.PROBLEM, True, True)


def test_a_service_that_hangs_and_one_that_crashed_are_told(config, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "ANSWER_SECONDS", 0.2)
    state = StateDirectory(tmp_path / ".baton")
    me = psutil.Process()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        running = Instance(id="00", pid=me.pid, started_after_boot=start_of(me), url=url, ports={}, address="", directory="")
        state.write(running)
        [(level, text)] = bad(network.service(config, state))
        assert (level, text.startswith(f"the service at {url} (pid {me.pid}) does not answer")) == (Level.WARNING, True)
    state.write(Instance(id="00", pid=me.pid, started_after_boot=0.0, url=url, ports={}, address="", directory=""))
    assert bad(network.service(config, state)) == [
        (Level.WARNING, f"a service that ran at {url} crashed; 0 of its processes still run")
    ]


def test_proxies_are_told_without_their_passwords_and_with_the_exception_that_is_missing():
    assert bad(network.proxies({})) == []
    proxied = {"http_proxy": "http://u:secret@proxy:3128"}
    assert bad(network.proxies({**proxied, "NO_PROXY": "localhost, 127.0.0.1"})) == []
    [(level, text)] = bad(network.proxies({**proxied, "NO_PROXY": "localhost"}))
    assert (level, "secret" in text) == (Level.WARNING, False)
    assert text.startswith("HTTP_PROXY=http://u:***@proxy:3128, and NO_PROXY does not name 127.0.0.1: ")


# --- all of them ---------------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_or_fails_is_a_warning_and_does_not_keep_the_others():
    def hangs() -> Iterator[Finding]:
        threading.Event().wait(60)
        yield ok("never")

    def fails() -> Iterator[Finding]:
        raise KeyError("what")

    found = doctor.run({"hangs": hangs, "fails": fails, "works": lambda: iter([ok("fine")])}, seconds=0.2)
    assert [(name, finding.level) for name, finding in found] == [
        ("hangs", Level.WARNING),
        ("fails", Level.WARNING),
        ("works", Level.OK),
    ]
    assert found[0][1].text == "no answer within 0 s"


def test_the_command_prints_a_line_for_each_finding_and_ends_with_the_status(config, tmp_path):
    (tmp_path / "baton.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("BATON_", "RAY_"))}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.cli", "doctor", *arguments, "-c", str(tmp_path / "baton.yaml")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert {line.partition(" ")[0] for line in lines} <= {"ok", "warning"}
    assert last.startswith("0 problems, ")
    with socket.create_server(("127.0.0.1", config.http.port)):
        failed = run("--json")
    told = json.loads(failed.stdout)
    assert (failed.returncode, told["ok"]) == (1, False)
    [found] = [finding for finding in told["findings"] if finding["level"] == "problem"]
    assert (found["check"], sorted(found)) == ("service", ["advice", "check", "level", "text"])
