"""`baton init`: a configuration that is valid, and says what was guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.config.file import load_config
from tests.cli.test_cli import Baton, baton, failed, words

__all__ = ["baton"]  # a fixture


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_configuration_is_written_that_reads_the_file(baton: Baton, project: Path):
    (project / "data" / "Support tickets.csv").write_text(
        "Body;Intent\nwhere is it;shipping\nI paid twice;billing\nand now?;billing\n"
    )
    done = baton("init", "data/Support tickets.csv")
    assert done.code == 0, done
    assert words(done.out) == (
        "baton.yaml: support-tickets, classification, 3 rows, 2 labels; text in the column 'Body', label in the column "
        "'Intent' (guessed; correct it there) next: baton data support-tickets · baton up --detach · baton train "
        "support-tickets --wait"
    )
    [model] = load_config(project / "baton.yaml", {}).models
    assert (model.name, model.task, dict(model.data.fields)) == (
        "support-tickets", "classification", {"text": "Body", "label": "Intent"},
    )  # fmt: skip
    assert model.data.train == str(project / "data" / "Support tickets.csv")
    assert baton("data", "support-tickets").code == 0
    assert "baton.yaml is there already" in failed(baton("init", "data/Support tickets.csv"))


def test_other_columns_that_could_be_the_labels_and_typing_errors_are_told(baton: Baton, project: Path):
    rows = [("ticket number " + str(number), "en", ("sales", "support")[number % 2]) for number in range(30)]
    rows += [("one more ticket", "de", "sales"), ("and another", "de", "suport")]
    (project / "t.csv").write_text("text,lang,dept\n" + "".join(f"{','.join(row)}\n" for row in rows))
    done = baton("init", "t.csv")
    assert "label in the column 'lang'" in words(done.out)
    assert "t.csv: the labels could also be in the column 'dept'" in words(done.err)
    assert "; the labels could also be in the column 'dept'" in words(baton("data", "t.csv").out)
    chosen = words(baton("data", "t.csv", "--field", "label=dept").out)
    assert "could also be" not in chosen
    assert "1 label with fewer than 5 rows in train: 'suport' (1, perhaps 'support')" in chosen


def test_entities_need_no_columns(baton: Baton, project: Path):
    (project / "people.jsonl").write_text('{"text": "Anna left", "spans": [{"start": 0, "end": 4, "label": "PER"}]}\n')
    assert baton("init", "people.jsonl", "--name", "persons", "-c", "other.yaml").code == 0
    [model] = load_config(project / "other.yaml", {}).models
    assert (model.name, model.task, dict(model.data.fields)) == ("persons", "ner", {})


def test_texts_to_write_get_a_base_model_that_writes(baton: Baton, project: Path):
    (project / "notes.csv").write_text("source,target,day\na long note,a note,1\nanother long note,another,2\n")
    done = baton("init", "notes.csv")
    assert (done.code, "notes, seq2seq, 2 rows" in words(done.out)) == (0, True), done
    [model] = load_config(project / "baton.yaml", {}).models
    assert (model.task, model.base_model, dict(model.data.fields)) == ("seq2seq", "google-t5/t5-small", {})
    assert baton("init", "notes.csv", "--base-model", "mine", "-c", "other.yaml").code == 0
    assert load_config(project / "other.yaml", {}).models[0].base_model == "mine"


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("text,label\na,b,c\n", (), "3 fields, the header has 2"),
        ("text,label\na,x\nb,y\n", ("--name", "No Name"), "name: 'No Name' is not allowed"),
    ],
)
def test_nothing_is_written_for_what_cannot_be_read(
    baton: Baton, project: Path, content: str, options: tuple[str, ...], told: str
):
    (project / "t.csv").write_text(content)
    assert told in failed(baton("init", "t.csv", *options))
    assert not (project / "baton.yaml").exists()
