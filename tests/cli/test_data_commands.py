"""`baton data`: what a user sees of a file or of a model's files, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import Baton, baton, failed, words

__all__ = ["baton"]  # a fixture

ROWS = "text;label;id\nwhere is it;shipping;1\nI paid twice;billing;2\nI paid twice;billing;3\n"


def test_a_file_is_looked_at_without_a_configuration(baton: Baton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(ROWS)
    done = baton("data", "t.csv")
    assert done.code == 0, done
    said = words(done.out)
    assert "task classification (guessed from the rows; --task and --field say otherwise) train: 3 rows of t.csv" in said
    assert "longest 5 tokens; 0.0% longer than max_length (128)" in said
    assert "note t.csv: not read: 'id'" in said
    assert "note 1 row: train: repeated rows, which count once t.csv line 4 repeats t.csv line 3" in said
    scripted = json.loads(baton("data", "t.csv", "--json").out)
    assert (scripted["usable"], scripted["splits"][0]["labels"]) == (True, {"billing": 2, "shipping": 1})


def test_a_file_that_cannot_be_trained_on_ends_with_status_1(baton: Baton, tmp_path: Path):
    (tmp_path / "t.csv").write_text("body,label\n,x\n")
    done = baton("data", tmp_path / "t.csv", "--field", "text=body")
    assert done.code == 1
    assert "error" in done.out
    assert "t.csv line 2, field 'body': '': text is empty" in words(done.out)


def test_a_model_is_looked_at_with_its_settings(baton: Baton, tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"utterance": "Anna left", "entities": [[0, 4, "PER"]]}\n')
    model = {"name": "people", "task": "ner", "data": {"train": "t.jsonl", "fields": {"text": "utterance"}}}
    (tmp_path / "baton.yaml").write_text(yaml.safe_dump({"models": [model]}))
    done = baton("data", "people", "-c", tmp_path / "baton.yaml", "--json")
    assert done.code == 0, done
    report = json.loads(done.out)
    assert (report["task"], report["guessed"], report["splits"][0]["labels"]) == ("ner", False, {"PER": 1})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("t.csv", "--task", "poetry"),
            "--task: 'poetry' is not allowed; allowed: classification, multi_label, ner, qa, seq2seq",
        ),
        (("t.csv", "--field", "text"), "--field: 'text' is not allowed; write FIELD=COLUMN, for example text=body"),
        (("intents", "--task", "ner"), "'intents' is no file: --task and --field are for files"),
        (("intents",), "intents"),
    ],
)
def test_what_cannot_be_looked_at_is_told(
    baton: Baton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "baton.yaml").write_text(yaml.safe_dump({"models": [{"name": "m", "task": "ner"}]}))
    assert told in words(failed(baton("data", *arguments)))


def test_a_file_that_is_not_there_is_an_error_of_the_report(baton: Baton, tmp_path: Path):
    done = baton("data", tmp_path / "none.csv")
    assert done.code == 1
    assert "none.csv: no such file" in words(done.out)
