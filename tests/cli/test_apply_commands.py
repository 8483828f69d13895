"""`baton apply` before it touches a cluster: what differs, who is told, and what is refused. tests/cluster has the rest."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from fastapi import FastAPI

from baton.config.file import load_config
from baton.errors import Conflict
from services.host.instance import Instance, StateDirectory, start_of
from tests.cli.test_cli import GOOD, Service, baton, failed, service, serving, words, write

__all__ = ["baton", "service"]  # fixtures


@pytest.fixture
def ours(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The service, as if `baton up` had started it from the file."""
    monkeypatch.delenv("BATON_URL")
    service.control.config = load_config(tmp_path / "baton.yaml", {})
    me = psutil.Process()
    StateDirectory(tmp_path / ".baton").write(
        Instance(id="x", pid=me.pid, started_after_boot=start_of(me), url=service.url, ports={}, address="", directory="")
    )
    return service


def instance_of(state: StateDirectory) -> Instance:
    instance = state.read()
    assert instance is not None
    return instance


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "baton.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_a_file_that_is_used_as_it_is_differs_in_nothing(ours):
    told = ours.ok("apply", "--dry-run", "--json").json
    assert (told["models"], told["restart"], told["notes"], told["applied"]) == ([], [], [], False)
    assert ours.ok("status", "--json").json["differs"] is None
    assert words(ours.ok("apply", "--dry-run").out).endswith("uses baton.yaml as it is")


def test_a_dry_run_shows_each_key_with_both_values_and_changes_nothing(ours, tmp_path):
    def change(content: dict[str, Any]) -> None:
        content["models"][0]["gate"]["min_f1"] = 0.7
        content["models"].append({"name": "new", "task": "ner", "data": {"train": "train.jsonl"}})
        content["http"]["port"] = 9000

    rewrite(tmp_path, change)
    before = ours.control.config
    done = ours.ok("apply", "--dry-run")
    lines = [words(line) for line in done.out.splitlines()]
    assert "m gate.min_f1 0.5 0.7 at once" in lines
    assert "new added at once" in lines
    assert "http.port 8000 9000 after a restart: `baton down`, `baton up`" in lines
    assert lines[-2:] == [
        "This was not applied (--dry-run).",
        "Only a restart applies http.port: `baton down`, `baton up`",
    ]
    assert f"new: data.train: {tmp_path / 'train.jsonl'} does not exist on this machine" in words(done.err)
    told = ours.ok("apply", "--dry-run", "--json").json
    assert told["models"][0] == {
        "model": "m",
        "kind": "changed",
        "changes": [{"key": "gate.min_f1", "old": 0.5, "new": 0.7, "effect": "at once"}],
    }
    assert told["restart"] == [{"key": "http.port", "old": 8000, "new": 9000, "effect": "restart"}]
    assert ours.control.config is before
    assert "new" not in ours.control.registry.declared()


def test_status_and_train_tell_of_a_newer_file_where_it_matters(ours, tmp_path, monkeypatch):
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=0.7))
    line = "baton.yaml differs from what the service runs (models m: gate.min_f1): `baton apply`"
    assert ours.ok("status", "--json").json["differs"] == line
    assert line in words(ours.ok("status").out)
    assert words(ours.ok("train", "m").err) == line
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=0.5))
    rewrite(tmp_path, lambda content: content["http"].update(port=9000))
    assert ours("train", "m").err.startswith("error: ")  # a run is active; of a restart it is told elsewhere
    monkeypatch.setenv("BATON_URL", ours.url)  # another service's file
    assert ours.ok("status", "--json").json["differs"] is None


def test_a_model_that_only_the_file_has_is_told_before_the_service_refuses_it(ours, tmp_path):
    rewrite(tmp_path, lambda content: content["models"].append({**GOOD["models"][0], "name": "new"}))
    done = ours("train", "new")
    assert done.code == 1
    assert done.err.startswith("baton.yaml differs from what the service runs (models new added): `baton apply`")
    assert "unknown model 'new'" in done.err


def test_nothing_is_applied_that_nobody_was_asked_about(ours, tmp_path):
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=0.7))
    for arguments in (("apply",), ("apply", "--json")):
        assert "`baton apply --yes` does not ask" in ours(*arguments).err
    assert ours.control.config.models[0].gate.min_f1 == 0.5


@pytest.mark.parametrize(("key", "value"), [("database", "sqlite:///other.db"), ("storage", "./elsewhere")])
def test_a_file_with_other_stores_is_not_applied_not_even_in_part(ours, tmp_path, key, value):
    def change(content: dict[str, Any]) -> None:
        content[key] = value
        content["models"][0]["gate"]["min_f1"] = 0.7

    rewrite(tmp_path, change)
    done = ours("apply", "--yes")
    assert done.code == 1
    assert f"nothing was applied: a service keeps its {key} until it is restarted" in words(done.err)
    assert not (tmp_path / "other.db").exists()


def test_a_file_with_mistakes_is_not_compared(ours, tmp_path):
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=7))
    assert "models[0].gate.min_f1: 7 is not allowed; at most 1" in failed(ours("apply", "--yes"))


def test_a_file_with_mistakes_hides_nothing_of_what_serves(ours, tmp_path):
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=7))
    told = ours.ok("status", "--json").json
    assert [model["name"] for model in told["models"]] == ["m"]
    assert told["differs"].startswith("the service goes on with the configuration that it has, for the file cannot be used: ")
    assert "models[0].gate.min_f1: 7 is not allowed; at most 1" in told["differs"]
    assert ours.ok("versions", "m").out
    done = ours("doctor", "--json")
    found = {finding["check"]: finding for finding in done.json["findings"]}
    assert (done.code, found["configuration"]["level"], found["service"]["level"]) == (1, "problem", "ok")
    assert "models[0].gate.min_f1" in found["configuration"]["text"]
    assert found["service"]["text"].startswith(f"the service runs at {ours.url} ")
    assert {"libraries", "permissions", "shared memory"} <= found.keys()


def test_runs_and_roll_outs_of_a_removed_model_are_told(ours, tmp_path):
    run = ours.control.registry.runs.create("m", {}, started=True)
    rewrite(tmp_path, lambda content: content["models"][0].update(name="renamed"))
    told = ours.ok("apply", "--dry-run", "--json")
    assert [(it["model"], it["kind"]) for it in told.json["models"]] == [("renamed", "added"), ("m", "removed")]
    assert told.json["notes"] == [f"m: run {run.id} goes on; `baton cancel {run.id}` ends it"]
    assert "not declared, but with versions in the database: m; declared without versions: renamed" in words(told.err)


def test_replicas_are_not_replaced_during_a_roll_out_which_would_take_that_for_their_death(ours, tmp_path):
    ours.ok("canary", "m", 2, "--percent", 10, "--minutes", 100)
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=0.7))
    assert ours.ok("apply", "--dry-run", "--json").json["obstacles"] == []
    rewrite(tmp_path, lambda content: content["models"][0]["serving"].update(threads=2))
    obstacle = "m: the roll-out of v2 (canary) is active, and would end if replicas do; `baton rollout m` shows it"
    assert ours.ok("apply", "--dry-run", "--json").json["obstacles"] == [obstacle]
    assert f"nothing was applied: {obstacle}" in words(ours("apply", "--yes").err)


def test_a_service_that_was_not_started_here_is_not_changed(service, baton, tmp_path):
    for url in (service.url, None):
        if url is None:
            del os.environ["BATON_URL"]
        message = failed_after_warnings(service("apply", "--yes"))
        assert "no service that `baton up` started with this file runs here" in message
        assert "`baton render` writes the new one" in message


def failed_after_warnings(done: Any) -> str:
    assert done.code == 1, done
    return words(done.err.partition("error: ")[2])


def test_up_of_a_service_that_runs_and_differs_is_apply(ours, tmp_path):
    state = StateDirectory(tmp_path / ".baton")
    state.write(replace(instance_of(state), address="127.0.0.1:1"))
    assert f"already running at {ours.url}" in failed(ours("up", "--detach"))
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=0.7))
    done = ours("up", "--detach")
    assert "m gate.min_f1 0.5 0.7 at once" in words(done.out)
    assert "`baton apply --yes` does not ask" in done.err


def test_without_a_yes_in_the_terminal_nothing_is_applied(ours, tmp_path):
    rewrite(tmp_path, lambda content: content["models"][0]["gate"].update(min_f1=0.7))
    ours_end, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "apply"],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.write(ours_end, b"n\n")
        said, complaint = process.communicate(timeout=300)
    finally:
        os.close(ours_end)
        os.close(theirs)
    assert process.returncode == 1
    assert "Apply this to the running service? [y/N]" in said
    assert "Aborted" in complaint
    assert ours.control.config.models[0].gate.min_f1 == 0.5


def test_a_service_of_an_older_version_is_told_to_be_restarted_and_other_commands_do_not_mind(ours, tmp_path):
    older = FastAPI()  # without /api/config
    older.add_api_route("/api/models", lambda: {"items": []})
    with serving(older) as url:
        state = StateDirectory(tmp_path / ".baton")
        state.write(replace(instance_of(state), url=url))
        message = failed_after_warnings(ours("apply", "--dry-run"))
        assert "runs another version of Baton, whose configuration cannot be compared" in message
        assert ours.ok("status", "--json").json["differs"] is None


def test_two_commands_do_not_change_a_service_at_once(tmp_path):
    state = StateDirectory(tmp_path)
    with state.changing(), pytest.raises(Conflict, match="another `baton apply` is at work"), state.changing():
        pass
    with state.changing(), state.claimed():  # which is the supervisor's
        pass


def test_the_service_tells_its_whole_configuration(service):
    assert httpx.get(f"{service.url}/api/config").json() == service.control.config.model_dump(mode="json")


def test_oddities_of_a_file_are_told_by_config_check(baton, tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    model = {
        **GOOD["models"][0],
        "base_model": "./nowhere",
        "feedback": {"log": 0},
        "retrain": {"on_drift": True, "live_f1_below": 0.5, "after_examples": 10},
    }
    done = baton("config", "check", "-c", write(tmp_path, {"models": [model]}))
    assert done.code == 0
    base = load_config(tmp_path / "baton.yaml", {}).models[0].base_model
    assert [words(line) for line in done.err.splitlines()] == [
        f"base model {base}: no such directory with a model",
        "m: retrain.on_drift never starts a run: it is measured on logged answers, and feedback.log is 0",
        "m: retrain.live_f1_below never starts a run: it is measured on logged answers, and feedback.log is 0",
    ]
    model["feedback"] = {"accept": False}
    told = baton("config", "check", "-c", write(tmp_path, {"models": [model]})).err
    assert told.count("never starts a run: it waits for corrections, and feedback.accept is false") == 3


def test_an_encoder_for_a_task_that_writes_is_told_by_config_check(baton, tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    model = {**GOOD["models"][0], "task": "seq2seq", "base_model": "sentence-transformers/all-MiniLM-L6-v2"}
    done = baton("config", "check", "-c", write(tmp_path, {"models": [model]}))
    assert done.code == 0
    assert "is a bert model, with which Baton was not tried to write; allowed: bart, mt5," in words(done.err)
