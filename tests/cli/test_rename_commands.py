"""`baton rename` on the command line. tests/host/test_renaming.py has what it does."""

from __future__ import annotations

import re
from pathlib import Path

from services.cli.operating.rename_commands import _preview
from tests.cli.test_cli import Baton, baton, failed, write
from tests.support.database import migrated_registry

__all__ = ["baton"]  # a fixture


def test_it_says_what_serves_under_the_new_name_and_what_is_wrong(baton: Baton, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database = f"sqlite:///{tmp_path}/baton.db"
    migrated_registry(database).declare_model("intents")
    model = {"task": "classification", "data": {"train": "train.jsonl"}}
    write(tmp_path, {"database": database, "models": [{"name": "intents", **model}]})
    assert failed(baton("rename", "intents", "tickets")) == (
        "the configuration still has a model intents; give it the name tickets there first"
    )
    write(tmp_path, {"database": database, "models": [{"name": "tickets", **model}]})
    assert "`baton rename intents tickets` takes" not in baton("config", "check").err, "it has no versions"
    assert failed(baton("rename", "nobody", "tickets")) == "unknown model 'nobody'; known models: intents"
    shown = "intents becomes tickets, with nothing but its name\n"
    looked = baton("rename", "intents", "tickets", "--dry-run")
    assert (looked.code, looked.out) == (0, shown)
    assert failed(baton("rename", "intents", "tickets")) == (
        "nothing was renamed: nobody can be asked without a terminal; `baton rename --yes` does not ask"
    )
    done = baton("rename", "intents", "tickets", "--yes")
    assert (done.code, done.out) == (0, shown + "renamed intents to tickets; it has no champion yet\n")
    [entry] = migrated_registry(database).history.incidents("tickets")
    assert re.fullmatch(r"Renamed from intents to tickets by \S.* on \S+\.", entry.detail)


def test_it_shows_what_gets_the_new_name():
    moved = {"version": 1, "run": 0, "correction": 2000}
    assert _preview("old", "new", moved) == "old becomes new, with 1 version, 2,000 corrections"
