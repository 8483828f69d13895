"""`baton register` and `evaluate`, and what `config check` and `up` say of models without train data or with another task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from baton.config.file import load_config
from services.cli import run_commands
from services.control import loops
from services.host.checks import startup_warnings
from tests.cli.test_cli import Baton, Service, baton, failed, serving, words, write
from tests.control.test_versions_api import LABELS, control
from tests.support.tiny import save_classifier

__all__ = ["baton"]  # a fixture
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def service(baton: Baton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """Model ``m`` with a holdout and no version; runs register their sources on the spot."""
    monkeypatch.setattr(loops, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(run_commands, "POLL_SECONDS", 0.01)
    made = control(tmp_path)
    with serving(made.__serve_build_asgi_app__()) as url:
        monkeypatch.setenv("BATON_CONFIG", str(write(tmp_path, yaml.safe_load(made.config.model_dump_json()))))
        monkeypatch.setenv("BATON_URL", url)
        yield Service(made, url, baton)


@pytest.fixture
def own(tiny_base: Path, tmp_path: Path) -> Path:
    return save_classifier(tiny_base, [f"LABEL_{index}" for index in range(4)], tmp_path / "own")


def test_a_directory_is_registered_by_a_relative_path_with_names_for_its_labels_and_serves(service, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "4 labels of the model without a name" in service("register", "m", "own", "--wait").out
    (tmp_path / "labels.json").write_text(json.dumps(dict(zip("0123", LABELS, strict=True))))
    done = service.ok("register", "m", "own", "--labels", "labels.json", "--wait")
    assert words(done.out).startswith("Promote: v1, the first version, F1 ")
    assert "v1 is serving." in done.out
    assert service.control.registry.versions.get("m", 1).lineage["source"]["location"] == str(own)
    again = service.ok("register", "m", own, "--labels", "labels.json", "--wait")
    assert "these files are v1 of m already" in words(again.out)
    assert "registers" in service.ok("runs", "m").out
    assert "registered" in words(service.ok("versions", "m").out)

    shown = words(service.ok("evaluate", "m", "1").out)
    assert shown.startswith("version F1 other metrics ECE holdout size one answer evaluated v1 ★ 0.")
    assert "label in holdout F1" in shown, "the report of the gate follows"
    assert service.ok("evaluate", "m", "1", "--json").json["evaluation"]["metrics"]["f1"] >= 0


def test_a_directory_in_the_users_home_is_registered_by_its_tilde(service, own, monkeypatch):
    monkeypatch.setenv("HOME", str(own.parent))
    service.control.jobs.on_run = lambda run_id: None
    assert service.ok("register", "m", "~/own", "--json").json["source"]["location"] == str(own)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("holdout.jsonl", "holdout.jsonl is a file; name the directory that it lies in"),
        ("./nowhere", "./nowhere: no such directory on this machine; give a path on the cluster's nodes from / on"),
        ("~/nowhere", "~/nowhere: no such directory on this machine"),
    ],
)
def test_what_is_no_directory_is_told_before_a_run_starts(service, tmp_path, monkeypatch, source, expected):
    monkeypatch.chdir(tmp_path)
    done = service("register", "m", source)
    assert (done.code, expected in words(done.err)) == (2, True), done
    assert service.control.registry.runs.list("m") == []


def test_without_wait_the_run_is_told_and_scripts_get_json(service, own):
    service.control.jobs.on_run = lambda run_id: None
    run = service.ok("register", "m", own, "--json").json
    assert (run["state"], run["source"]["location"]) == ("queued", str(own))
    assert "is active" in failed(service("register", "m", own))
    service.ok("cancel", run["id"])
    assert "is queued; watch it with `baton runs m`" in words(service.ok("register", "m", own).out)


@pytest.mark.parametrize(
    ("content", "told"), [("[", "it cannot be read as JSON"), ('["billing"]', "an object of names is needed")]
)
def test_a_file_of_labels_must_be_an_object_of_names(service, tmp_path, content, told):
    (tmp_path / "labels.json").write_text(content)
    assert told in failed(service("register", "m", tmp_path, "--labels", tmp_path / "labels.json"))
    assert service.control.registry.runs.list("m") == []


# --- config check and up -------------------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_trained_is_told_by_config_check(baton, tmp_path):
    file = write(tmp_path, {"models": [{"name": "m", "task": "classification"}]})
    said = words(baton("config", "check", "-c", file).err)
    assert "m: data.train is not declared: versions can only be registered (`baton register`), and nothing judges them" in said
    assert not (tmp_path / ".baton").exists(), "a check leaves nothing behind"


def test_a_champion_of_another_task_is_told_by_config_check_and_by_up(service, baton, own, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(dict(zip("0123", LABELS, strict=True))))
    service.ok("register", "m", own, "--labels", tmp_path / "labels.json", "--wait")
    file = tmp_path / "baton.yaml"
    assert "champion" not in baton("config", "check", "-c", file).err
    file.write_text(file.read_text().replace("task: classification", "task: ner"))
    done = baton("config", "check", "-c", file)
    told = (
        "m: its champion v1 has the task classification, and task: ner is declared. No version answers until one of ner takes"
    )
    assert (done.code, told in words(done.err)) == (0, True), done.err
    warnings = startup_warnings.messages(load_config(file, {}), service.control.registry, {})
    assert any(text.startswith(f"{startup_warnings.WARNING}{told}") for text in warnings)
