"""Data sets: read alike from every format, complained about line by line, split for good, and frozen without leaks."""

from __future__ import annotations

import csv
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from baton.artifacts.frozen import hashes, to_lines
from baton.artifacts.storage import Storage
from baton.config.model_settings import DataSettings
from baton.errors import DataError, StorageError
from baton.tasks.classification import Classification, TextExample
from baton.tasks.ner import Ner
from baton.tasks.ner_rows import NerExample
from baton.tasks.qa import QuestionAnswering
from baton.text.normal_form import normalise
from tests.support.tiny import keyword_rows
from training.data import sources
from training.data.datasets import NO_HISTORY, Dataset, History, freeze, load_split
from training.data.splits import split_rows

Rows = Sequence[dict[str, Any]]

ROWS = [
    {"text": "where is my parcel?", "label": "shipping"},
    {"text": 'the "invoice", again\nis wrong', "label": "billing"},
    {"text": "日本語 😀 naïve", "label": "shipping"},
    {"text": "refund, please", "label": "billing"},
]
HOLDOUT = [{"text": "a parcel", "label": "shipping"}, {"text": "a refund", "label": "billing"}]


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def write_hub_directory(path: Path, rows: Rows) -> Path:
    path.mkdir()
    write_jsonl(path / "train.jsonl", rows)
    write_jsonl(path / "test.jsonl", HOLDOUT)
    return path


@pytest.fixture
def storage() -> Storage:
    return Storage(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares stays in the test's own directory, and without a progress bar."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def frozen(storage: Storage, train: Path | str, holdout: Path | str | float, **fields: str) -> Dataset:
    named = holdout if isinstance(holdout, float) else str(holdout)
    data = DataSettings.model_validate({"train": str(train), "holdout": named, "fields": fields})
    return freeze("m", Classification, data, storage)


def complaint(storage: Storage, train: Path | str, holdout: Path | str | float = 0.5, **fields: str) -> str:
    with pytest.raises(DataError) as caught:
        frozen(storage, train, holdout, **fields)
    return str(caught.value)


def examples(rows: Rows) -> list[TextExample]:
    return [TextExample(**row) for row in rows]


def pairs(rows: Sequence[TextExample]) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in rows]


# --- formats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("train.jsonl", write_jsonl),
        ("train.json", write_jsonl),
        ("train.csv", write_csv),
        ("train.parquet", write_parquet),
        ("my_dataset", write_hub_directory),
    ],
)
def test_every_format_gives_the_same_rows(storage, tmp_path, name, write: Callable[[Path, Rows], Path]):
    holdout = write_jsonl(tmp_path / "holdout.jsonl", HOLDOUT)
    dataset = frozen(storage, write(tmp_path / name, ROWS), holdout)
    assert dataset.train == examples(ROWS)
    assert dataset.holdout == examples(HOLDOUT)


def test_a_datasets_id_as_holdout_means_its_test_split(storage, tmp_path):
    directory = write_hub_directory(tmp_path / "my_dataset", ROWS)
    dataset = frozen(storage, directory, directory)
    assert (dataset.train, dataset.holdout) == (examples(ROWS), examples(HOLDOUT))


def test_class_labels_of_a_datasets_id_are_read_by_name(storage, tmp_path):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["billing", "shipping"])})
    coded = [{"text": row["text"], "label": row["label"] == "shipping"} for row in ROWS]
    (tmp_path / "coded").mkdir()
    DatasetDict({"train": Dataset.from_list(coded, features=features)})["train"].to_parquet(tmp_path / "coded/train.parquet")
    assert frozen(storage, tmp_path / "coded", write_jsonl(tmp_path / "holdout.jsonl", HOLDOUT)).train == examples(ROWS)


def test_a_row_of_a_datasets_id_that_has_no_label_is_named(storage, tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["billing", "shipping"])})
    (tmp_path / "coded").mkdir()
    coded = [{"text": "a", "label": 0}, {"text": "b", "label": -1}, {"text": "c", "label": None}]
    Dataset.from_list(coded, features=features).to_parquet(tmp_path / "coded/train.parquet")
    told = complaint(storage, tmp_path / "coded")
    assert "train row 2, field 'label': -1: Input should be a valid string" in told
    assert "train row 3, field 'label': None: Input should be a valid string" in told


@pytest.mark.parametrize(("name", "write"), [("t.jsonl", write_jsonl), ("t.csv", write_csv), ("t.parquet", write_parquet)])
def test_columns_of_other_names_are_mapped_and_further_columns_ignored(storage, tmp_path, name, write):
    rows = [{"id": index, "sentence": row["text"], "intent": row["label"]} for index, row in enumerate(ROWS)]
    holdout = [{"sentence": row["text"], "intent": row["label"]} for row in HOLDOUT]
    train = write(tmp_path / name, rows)
    dataset = frozen(storage, train, write(tmp_path / f"holdout-{name}", holdout), text="sentence", label="intent")
    assert pairs(dataset.train) == [(row["text"], row["label"]) for row in ROWS]


def test_blank_lines_and_a_byte_order_mark_are_nothing(storage, tmp_path):
    holdout = write_jsonl(tmp_path / "holdout.jsonl", HOLDOUT)
    write_jsonl(tmp_path / "plain.jsonl", ROWS)
    lines = (tmp_path / "plain.jsonl").read_text().splitlines()
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(lines).encode() + b"\n  \n")
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + write_csv(tmp_path / "plain.csv", ROWS).read_bytes())
    assert frozen(storage, tmp_path / "t.jsonl", holdout).train == examples(ROWS)
    assert frozen(storage, tmp_path / "t.csv", holdout).train == examples(ROWS)


# --- mistakes ------------------------------------------------------------------------------------------------------------


def test_bad_json_is_told_with_its_line(storage, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": "x"}\n\n{"text": "b", "label"}\n')
    assert f"{tmp_path}/t.jsonl line 3: not valid JSON: Expecting ':' delimiter" in complaint(storage, tmp_path / "t.jsonl")


@pytest.mark.parametrize("line", ["[1, 2]", '"text"', "7", "null"])
def test_a_line_that_is_no_object_is_told_with_its_value(storage, tmp_path, line):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": "x"}\n' + line)
    shown = repr(json.loads(line))
    assert f"t.jsonl line 2: a JSON object is expected, not {shown}" in complaint(storage, tmp_path / "t.jsonl")


@pytest.mark.parametrize(
    ("name", "write", "place"),
    [("t.jsonl", write_jsonl, "line 2"), ("t.csv", write_csv, "line 3"), ("t.parquet", write_parquet, "row 2")],
)
def test_an_empty_text_is_told_with_file_line_field_and_what_is_allowed(storage, tmp_path, name, write, place):
    path = write(tmp_path / name, [{"text": "a", "label": "x"}, {"text": " \t", "label": "x"}])
    told = complaint(storage, path)
    assert told.splitlines()[0] == f"{path}: 1 row cannot be used"
    expected = f"  {path} {place}, field 'text': ' \\t': text is empty; send at least one character that is not white space"
    assert told.splitlines()[1] == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": 7, "label": "x"}, "field 'text': 7: Input should be a valid string"),
        ({"text": None, "label": "x"}, "field 'text': None: Input should be a valid string"),
        ({"text": ["a"], "label": "x"}, "field 'text': ['a']: Input should be a valid string"),
        ({"text": "a", "label": 3}, "field 'label': 3: Input should be a valid string"),
        ({"text": "a", "label": ""}, "field 'label': '': a label is blank"),
        ({"text": "a", "label": "x\ny"}, "field 'label': 'x\\ny': a label holds '\\n'; it must be valid Unicode on one line"),
        ({"text": "a\ud800", "label": "x"}, "field 'text': 'a\\ud800': text holds a lone surrogate at character 1"),
    ],
)
def test_a_value_that_is_not_allowed_is_told_with_line_and_field(storage, tmp_path, row, expected):
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    assert f"{tmp_path}/t.jsonl line 1, {expected}" in complaint(storage, tmp_path / "t.jsonl")


def test_a_wrong_value_is_told_under_the_name_of_its_column_and_cut_short(storage, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"sentence": ["x" * 500], "label": "x"}])
    told = complaint(storage, path, text="sentence")
    assert "line 1, field 'sentence': ['xxx" in told
    assert len(told.replace(str(tmp_path), "")) < 200


def test_a_missing_field_is_told_with_the_nearest_one(storage, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"texts": "a", "label": "x"}])
    assert complaint(storage, path).endswith(
        "t.jsonl line 1: field 'text' is missing; the row has 'texts', 'label'; did you mean 'texts'? "
        "(map names with data.fields)"
    )


def test_a_missing_field_without_a_near_one_is_told_with_what_there_is(storage, tmp_path):
    rows = [{"utterance": "a", "label": "x"}, {}]
    told = complaint(storage, write_jsonl(tmp_path / "t.jsonl", rows))
    assert "line 1: field 'text' is missing; the row has 'utterance', 'label' (map" in told
    assert "line 2: field 'text' is missing; the row has no fields (map" in told


def test_a_csv_row_with_a_comma_too_many_is_told_with_its_line_and_not_cut(storage, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\nfine,a\nHello, where is my order,shipping\n")
    told = complaint(storage, path)
    assert "train.csv line 3: 3 fields, the header has 2; columns are separated by commas: quote texts that hold" in told


def test_a_short_csv_row_is_told_with_its_line(storage, tmp_path):
    (tmp_path / "t.csv").write_text("text,label\nfirst,x\nsecond\n")
    assert "t.csv line 3, field 'label': '': a label is blank" in complaint(storage, tmp_path / "t.csv")


def test_broken_rows_are_listed_in_one_error_up_to_ten_and_counted(storage, tmp_path):
    rows = [{"text": "" if index % 2 else f"text {index}", "label": "x"} for index in range(1, 29)]
    told = complaint(storage, write_jsonl(tmp_path / "t.jsonl", rows)).splitlines()
    assert told[0] == f"{tmp_path}/t.jsonl: 14 rows cannot be used"
    assert [line.split(", field")[0].rpartition(" ")[2] for line in told[1:11]] == [str(line) for line in range(1, 20, 2)]
    assert told[11:] == ["  … and 4 more"]


def test_bytes_that_are_not_utf8_are_told_with_their_line(storage, tmp_path):
    (tmp_path / "t.csv").write_bytes("text,label\nnaïve,x\n".encode() + b"fine,x\n" * 500 + b"caf\xe9,x\n")
    assert complaint(storage, tmp_path / "t.csv").startswith(
        f"{tmp_path}/t.csv line 503: not UTF-8: byte 0xE9 at character 4; read as Windows-1252 (cp1252), the line is 'café,x'"
    )
    (tmp_path / "t.jsonl").write_bytes(b'{"text": "fine", "label": "x"}\n{"text": "caf\xe9", "label": "x"}\n')
    assert "t.jsonl line 2: not UTF-8: byte 0xE9" in complaint(storage, tmp_path / "t.jsonl")


def test_a_file_that_is_not_parquet_is_told_by_name(storage, tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"text,label\n")
    assert f"{tmp_path}/t.parquet: not a readable Parquet file" in complaint(storage, tmp_path / "t.parquet")


@pytest.mark.parametrize(("name", "content"), [("t.jsonl", ""), ("t.jsonl", "\n\n"), ("t.csv", ""), ("t.csv", "text,label\n")])
def test_a_file_without_rows_is_told(storage, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert complaint(storage, tmp_path / name) == f"{tmp_path}/{name}: the file holds no rows"


def test_a_missing_file_of_either_split_is_told_by_name(storage, tmp_path):
    here = write_jsonl(tmp_path / "here.jsonl", ROWS)
    assert complaint(storage, "/nowhere/train.csv") == "/nowhere/train.csv: no such file"
    assert complaint(storage, here, "/nowhere/test.parquet") == "/nowhere/test.parquet: no such file"


def test_an_unknown_file_type_is_told_with_the_allowed_ones(storage, tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    assert complaint(storage, tmp_path / "rows.xlsx").endswith(
        "rows.xlsx: unknown file type '.xlsx'; allowed: .jsonl, .ndjson, .json, .csv, .tsv, .tab, .parquet, .conll, .iob2, "
        ".iob, .bio, .txt, or a datasets id"
    )


def test_a_datasets_id_that_cannot_be_loaded_is_told_with_the_reason(storage, tmp_path):
    assert "'baton-tests/no-such' is neither a file nor a datasets id that can be loaded: " in complaint(
        storage, "baton-tests/no-such"
    )
    (tmp_path / "only_train").mkdir()
    write_jsonl(tmp_path / "only_train/train.jsonl", ROWS)
    told = complaint(storage, write_jsonl(tmp_path / "t.jsonl", ROWS), tmp_path / "only_train")
    assert 'only_train\' is neither a file nor a datasets id that can be loaded: Unknown split "test"' in told


def test_data_of_one_label_is_refused_by_name(storage, tmp_path):
    rows = [{"text": f"text {index}", "label": "only"} for index in range(10)]
    assert complaint(storage, write_jsonl(tmp_path / "t.jsonl", rows)) == (
        "classification needs at least two labels in the training data; it has only 'only'"
    )


def test_a_holdout_label_that_train_lacks_is_refused_with_the_known_ones(storage, tmp_path):
    holdout = write_jsonl(tmp_path / "h.jsonl", [*HOLDOUT, {"text": "new", "label": "refund"}])
    assert complaint(storage, write_jsonl(tmp_path / "t.jsonl", ROWS), holdout) == (
        "the holdout has 1 label that the training data lacks: 'refund'; training has 'billing', 'shipping'"
    )


def test_a_train_file_that_is_wholly_in_the_holdout_is_refused(storage, tmp_path):
    train, holdout = write_jsonl(tmp_path / "t.jsonl", ROWS), write_jsonl(tmp_path / "h.jsonl", ROWS[::-1])
    assert complaint(storage, train, holdout) == (
        f"{train}: nothing is left to train on; the holdout {holdout} also has its 4 rows"
    )


def test_rows_that_cannot_be_split_are_refused(storage, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    assert complaint(storage, path, 0.2) == f"{path}: 2 rows cannot be split into train and holdout (20%)"


def test_mistakes_of_the_holdout_are_told_like_those_of_train(storage, tmp_path):
    train, holdout = write_jsonl(tmp_path / "t.jsonl", ROWS), write_jsonl(tmp_path / "h.jsonl", [{"text": "", "label": "x"}])
    assert f"{holdout} line 1, field 'text': '': text is empty" in complaint(storage, train, holdout)


# --- leaks and repetitions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "disguised", ["a parcel", "A PARCEL", "  a\t\n parcel ", "ａ ｐａｒｃｅｌ", "a\u00a0parcel", "a\u2003parcel"]
)
def test_a_train_row_that_is_in_the_holdout_leaves_train_however_it_is_written(storage, tmp_path, disguised):
    train = write_jsonl(tmp_path / "t.jsonl", [*ROWS, {"text": disguised, "label": "shipping"}])
    dataset = frozen(storage, train, write_jsonl(tmp_path / "h.jsonl", HOLDOUT))
    assert dataset.train == examples(ROWS)
    assert dataset.holdout == examples(HOLDOUT)
    assert (dataset.version.removed_leaks, dataset.version.removed_duplicates) == (1, 0)
    assert (dataset.version.train_rows, dataset.version.holdout_rows) == (4, 2)


def test_a_leak_leaves_train_whatever_its_label(storage, tmp_path):
    train = write_jsonl(tmp_path / "t.jsonl", [*ROWS, {"text": "a parcel", "label": "billing"}])
    assert frozen(storage, train, write_jsonl(tmp_path / "h.jsonl", HOLDOUT)).version.removed_leaks == 1


@pytest.mark.parametrize("other", ["a parcels", "ａ ｐａｒcＥl!", "á parcel", "aparcel"])
def test_a_text_that_differs_stays(storage, tmp_path, other):
    train = write_jsonl(tmp_path / "t.jsonl", [*ROWS, {"text": other, "label": "shipping"}])
    dataset = frozen(storage, train, write_jsonl(tmp_path / "h.jsonl", HOLDOUT))
    assert (len(dataset.train), dataset.version.removed_leaks) == (5, 0)


def test_in_question_answering_a_context_of_the_holdout_leaves_train_with_all_its_questions(storage, tmp_path):
    def row(question: str, context: str) -> dict[str, object]:
        return {"question": question, "context": context, "answers": {"text": ["alpha"], "answer_start": [0]}}

    train = [row("a?", "alpha beta"), row("b?", "Alpha  beta"), row("c?", "alpha gamma")]
    train[1]["answers"] = {"text": [], "answer_start": []}
    data = DataSettings(
        train=str(write_jsonl(tmp_path / "t.jsonl", train)),
        holdout=str(write_jsonl(tmp_path / "h.jsonl", [row("d?", "alpha beta")])),
    )
    dataset = freeze("m", QuestionAnswering, data, storage)
    assert [example.question for example in dataset.train] == ["c?"]
    assert dataset.version.removed_leaks == 2


def test_a_text_of_several_strata_is_in_one_split(storage):
    source = random.Random(0)
    rows = [
        NerExample.model_validate({"text": f"Oslo {number}", "entities": [{"start": 0, "end": 4, "label": label}]})
        for number in range(40)
        for label in ("LOC", "ORG")
        if source.random() < 0.8
    ]
    for fraction in (0.05, 0.1, 0.3):
        train, held = split_rows(Ner, rows, fraction)
        assert {row.text for row in train}.isdisjoint(row.text for row in held)
        assert len(train) + len(held) == len(rows)
        assert held


@pytest.mark.parametrize(
    ("task_cls", "cells"),
    [
        (Ner, {"text": "Oslo", "entities": '[{"start": 0, "end": 4, "label": "LOC"}]'}),
        (Ner, {"tokens": '["Oslo"]', "tags": '["B-LOC"]'}),
        (QuestionAnswering, {"question": "where?", "context": "Oslo", "answers": '{"text": ["Oslo"], "answer_start": [0]}'}),
    ],
)
def test_lists_and_objects_in_csv_are_json(storage, tmp_path, task_cls, cells):
    write_csv(tmp_path / "t.csv", [cells])
    [example] = sources.parse(task_cls, {}, sources.read(str(tmp_path / "t.csv"), "train"), "t.csv")
    assert "Oslo" in example.model_dump_json()


def test_repetitions_in_train_are_counted_and_the_first_stays(storage, tmp_path):
    again = [{"text": "REFUND,  please", "label": "billing"}, {"text": "refund, please", "label": "billing"}]
    train = write_jsonl(tmp_path / "t.jsonl", [*ROWS, *again])
    dataset = frozen(storage, train, write_jsonl(tmp_path / "h.jsonl", HOLDOUT))
    assert pairs(dataset.train) == pairs(examples(ROWS))
    assert (dataset.version.removed_leaks, dataset.version.removed_duplicates) == (0, 2)


def test_repetitions_in_the_holdout_are_counted_and_the_first_stays(storage, tmp_path):
    repeated = [*HOLDOUT, HOLDOUT[0], {"text": "A REFUND", "label": "billing"}]
    train = write_jsonl(tmp_path / "t.jsonl", ROWS)
    dataset = frozen(storage, train, write_jsonl(tmp_path / "h.jsonl", repeated))
    assert dataset.holdout == examples(HOLDOUT)
    assert (dataset.version.holdout_rows, dataset.version.removed_duplicates, dataset.version.quarantined_rows) == (2, 2, 0)
    assert (
        dataset.version.holdout_hash == frozen(storage, train, write_jsonl(tmp_path / "h2.jsonl", HOLDOUT)).version.holdout_hash
    )


def test_holdout_rows_of_one_text_with_different_answers_are_all_quarantined_with_the_reason(storage, tmp_path):
    contradicting = [*HOLDOUT, {"text": "A  parcel", "label": "billing"}, {"text": "a parcel", "label": "shipping"}]
    holdout = write_jsonl(tmp_path / "h.jsonl", contradicting)
    dataset = frozen(storage, write_jsonl(tmp_path / "t.jsonl", ROWS), holdout)
    assert dataset.holdout == examples(HOLDOUT[1:])
    assert dataset.version.quarantined == tuple(
        {"where": f"{holdout} line {line}", "reason": "its text is 3 times in the holdout, with different answers"}
        for line in (1, 3, 4)
    )
    assert (dataset.version.removed_duplicates, dataset.version.conflicts["texts"]) == (0, 0)


def test_a_file_that_has_each_text_ten_times_gives_a_holdout_that_has_it_once(storage, tmp_path):
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(200) for _ in range(10)]
    version = (dataset := frozen(storage, write_jsonl(tmp_path / "t.jsonl", rows), 0.2)).version
    for split in (dataset.train, dataset.holdout):
        assert len({row.text for row in split}) == len(split)
    assert version.train_rows + version.holdout_rows == 200
    assert version.removed_duplicates == 1800


def test_questions_about_one_context_of_the_holdout_are_compared_one_by_one(storage, tmp_path):
    def row(question: str, context: str) -> dict[str, object]:
        return {"question": question, "context": context, "answers": {"text": ["alpha"], "answer_start": [0]}}

    held = [row("a?", "alpha beta"), row("b?", "alpha beta"), row("A?", "Alpha beta")]
    held[2]["answers"] = {"text": [], "answer_start": []}
    data = DataSettings(
        train=str(write_jsonl(tmp_path / "t.jsonl", [row("c?", "alpha gamma")])),
        holdout=str(write_jsonl(tmp_path / "h.jsonl", held)),
    )
    dataset = freeze("m", QuestionAnswering, data, storage)
    assert [example.question for example in dataset.holdout] == ["b?"]
    assert dataset.version.quarantined_rows == 2


# --- runs on other data --------------------------------------------------------------------------------------------------

TINY = [{"text": f"experiment {number}", "label": ("billing", "shipping")[number % 2]} for number in range(8)]


def declared_data(tmp_path: Path, holdout: float | Rows) -> DataSettings:
    """Settings as in `baton.yaml`, and a small file `tiny.jsonl` for a run to train on instead."""
    train = write_jsonl(tmp_path / "main.jsonl", keyword_rows(300, ("billing", "bug", "shipping"), seed=0))
    write_jsonl(tmp_path / "tiny.jsonl", TINY)
    named = holdout if isinstance(holdout, float) else str(write_jsonl(tmp_path / "held.jsonl", holdout))
    return DataSettings(train=str(train), holdout=named)


def frozen_for_run(storage: Storage, declared: DataSettings, history: History = NO_HISTORY, **overridden: Any) -> Dataset:
    data = DataSettings.model_validate({**declared.model_dump(), **overridden})
    return freeze("m", Classification, data, storage, history, declared=declared)


@pytest.fixture(params=["fraction", "file"])
def declared(request: pytest.FixtureRequest, tmp_path: Path) -> DataSettings:
    held = keyword_rows(90, ("billing", "bug", "shipping"), seed=1)
    return declared_data(tmp_path, 0.2 if request.param == "fraction" else held)


def test_a_run_on_other_data_is_judged_on_the_holdout_of_the_declared_data(storage, tmp_path, declared):
    tiny = str(tmp_path / "tiny.jsonl")
    expected = frozen_for_run(storage, declared)
    dataset = frozen_for_run(storage, declared, train=tiny)
    assert dataset.version.holdout_hash == expected.version.holdout_hash
    assert dataset.holdout == expected.holdout
    assert len(dataset.holdout) > 40
    assert pairs(dataset.train) == [(row["text"], row["label"]) for row in TINY]
    assert dataset.version.hash != expected.version.hash
    assert dataset.version.labels == ("billing", "shipping")
    source = declared.holdout if isinstance(declared.holdout, str) else f"0.2 of {declared.train}"
    assert dataset.version.sources == {"train": tiny, "holdout": source}
    assert expected.version.sources == {"train": declared.train, "holdout": source}


@pytest.mark.parametrize("first", ["declared", "other"])
def test_the_holdout_stays_the_same_whether_the_run_on_other_data_comes_first_or_second(storage, tmp_path, declared, first):
    tiny = str(tmp_path / "tiny.jsonl")
    order = [declared.train, tiny] if first == "declared" else [tiny, declared.train]
    ledger: dict[str, str] = {}
    hashes = set()
    for train in [*order, *order]:
        dataset = frozen_for_run(storage, declared, History(ledger=dict(ledger)), train=train)
        assert all(ledger.setdefault(group, split) == split for group, split in dataset.splits.items())
        hashes.add(dataset.version.holdout_hash)
    assert len(hashes) == 1


def test_a_text_of_the_declared_holdout_leaves_the_other_train_file(storage, tmp_path, declared):
    held = frozen_for_run(storage, declared).holdout
    copied = [{"text": row.text.upper(), "label": row.label} for row in held]
    other = write_jsonl(tmp_path / "other.jsonl", [*TINY, *copied])
    dataset = frozen_for_run(storage, declared, train=str(other))
    assert dataset.holdout == held
    assert pairs(dataset.train) == [(row["text"], row["label"]) for row in TINY]
    assert dataset.version.removed_leaks == len(held)


def test_columns_that_a_run_names_for_its_train_file_do_not_change_the_holdout(storage, tmp_path, declared):
    renamed = [{"text": row["label"], "body": row["text"], "label": row["label"]} for row in TINY]
    other = str(write_jsonl(tmp_path / "renamed.jsonl", renamed))
    expected = frozen_for_run(storage, declared).version.holdout_hash
    dataset = frozen_for_run(storage, declared, train=other, fields={"text": "body"})
    assert dataset.version.holdout_hash == expected
    assert pairs(dataset.train) == [(row["text"], row["label"]) for row in TINY]


def test_columns_that_a_run_names_for_the_declared_file_do_not_change_the_holdout(storage, tmp_path, declared):
    rows = [{**row, "second": "billing"} for row in keyword_rows(300, ("billing", "bug", "shipping"), seed=0)]
    rows[0]["second"] = "shipping"
    write_jsonl(Path(declared.train), rows)
    expected = frozen_for_run(storage, declared)
    dataset = frozen_for_run(storage, declared, fields={"label": "second"})
    assert dataset.version.holdout_hash == expected.version.holdout_hash
    assert texts(dataset.train) == texts(expected.train)
    assert {row.label for row in dataset.train} <= {"billing", "shipping"}


# --- the split -----------------------------------------------------------------------------------------------------------

labelled = st.lists(
    st.tuples(st.text("abc \u2028é", min_size=1, max_size=5).filter(str.strip), st.sampled_from("xyz")), min_size=1, max_size=40
)
fractions = st.floats(0.05, 0.95)


def distinct(rows: Sequence[tuple[str, str]]) -> list[TextExample]:
    """Examples of different normalised texts, so that each may be followed by its text."""
    first = {normalise(text): (text, label) for text, label in reversed(rows)}
    return [TextExample(text=text, label=label) for text, label in first.values()]


def texts(rows: Sequence[TextExample]) -> set[str]:
    return {row.text for row in rows}


@given(labelled, fractions, st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order_of_the_rows(rows, fraction, source):
    ordered = examples([{"text": text, "label": label} for text, label in rows])
    shuffled = source.sample(ordered, len(ordered))
    for before, after in zip(
        split_rows(Classification, ordered, fraction), split_rows(Classification, shuffled, fraction), strict=True
    ):
        assert Counter(pairs(before)) == Counter(pairs(after))


@given(labelled, labelled, fractions)
def test_a_row_keeps_its_split_when_rows_are_added(rows, more, fraction):
    """The documented exception aside: the single row with which a label keeps a split from being empty."""
    everything = distinct([*rows, *more])
    known = {normalise(text) for text, _ in rows}
    some = [row for row in everything if normalise(row.text) in known]
    before = split_rows(Classification, some, fraction)
    after = split_rows(Classification, everything, fraction)
    for split_before, split_after in zip(before, after, strict=True):
        sizes = Counter(row.label for row in split_before)
        moved = [row for row in split_before if row.text not in texts(split_after)]
        assert all(sizes[row.label] == 1 for row in moved)


@given(labelled, fractions)
def test_every_row_is_in_one_split_in_the_order_of_the_file(rows, fraction):
    everything = distinct(rows)
    train, holdout = split_rows(Classification, everything, fraction)
    assert texts(train).isdisjoint(texts(holdout))
    assert sorted([*train, *holdout], key=everything.index) == everything
    for split in (train, holdout):
        assert split == sorted(split, key=everything.index)


@given(labelled, fractions)
def test_a_label_with_two_texts_is_in_both_splits_and_one_with_a_single_text_in_train(rows, fraction):
    everything = distinct(rows)
    train, holdout = split_rows(Classification, everything, fraction)
    for label, count in Counter(row.label for row in everything).items():
        assert label in {row.label for row in train}
        assert (label in {row.label for row in holdout}) == (count > 1)


@given(labelled, fractions)
def test_the_same_text_with_the_same_label_is_never_in_both_splits(rows, fraction):
    train, holdout = split_rows(Classification, examples([{"text": text, "label": label} for text, label in rows]), fraction)
    splits = [{(normalise(row.text), row.label) for row in split} for split in (train, holdout)]
    assert splits[0].isdisjoint(splits[1])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labelled, fractions)
def test_no_text_of_a_frozen_data_set_is_in_both_splits(storage, tmp_path, rows, fraction):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": text, "label": label} for text, label in rows])
    try:
        dataset = frozen(storage, path, fraction)
    except DataError:  # too few labels or rows: other tests look at that
        return
    splits = [{normalise(row.text) for row in split} for split in (dataset.train, dataset.holdout)]
    assert splits[0].isdisjoint(splits[1])
    version = dataset.version
    removed = version.removed_leaks + version.removed_duplicates + version.conflicts["dropped"]
    removed += version.quarantined_rows  # of the holdout, where the last train row of a label lost against a contradiction
    assert version.train_rows + version.holdout_rows + removed == len(rows)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_each_label_has_about_the_wanted_share_in_the_holdout(fraction):
    labels = ("billing", "bug", "shipping")
    rows = examples([{"text": f"text {index}", "label": labels[index % 3]} for index in range(6000)])
    _, holdout = split_rows(Classification, rows, fraction)
    for label, count in Counter(row.label for row in holdout).items():
        assert count / 2000 == pytest.approx(fraction, abs=0.035), label


def test_validation_has_its_share_of_what_a_fraction_left_to_train(storage, tmp_path):
    rows = keyword_rows(1500, ("billing", "bug", "shipping"), seed=0)
    dataset = frozen(storage, write_jsonl(tmp_path / "t.jsonl", rows), 0.2)
    train, validation = split_rows(Classification, dataset.train, 0.1)
    assert len(validation) / len(dataset.train) == pytest.approx(0.1, abs=0.03)
    assert texts(train).isdisjoint(texts(validation))


# --- frozen --------------------------------------------------------------------------------------------------------------


def test_the_same_content_has_the_same_hash_and_place_whatever_its_format(storage, tmp_path):
    holdout = write_jsonl(tmp_path / "h.jsonl", HOLDOUT)
    first = frozen(storage, write_jsonl(tmp_path / "t.jsonl", ROWS), holdout).version
    second = frozen(storage, write_csv(tmp_path / "other.csv", ROWS), holdout).version
    assert (second.hash, second.uri, second.holdout_hash) == (first.hash, first.uri, first.holdout_hash)
    assert first.hash in first.uri
    assert first.labels == ("billing", "shipping")


def test_a_change_of_either_split_is_another_data_set_and_only_one_of_the_holdout_changes_its_hash(storage, tmp_path):
    train, holdout = write_jsonl(tmp_path / "t.jsonl", ROWS), write_jsonl(tmp_path / "h.jsonl", HOLDOUT)
    first = frozen(storage, train, holdout).version
    more = frozen(storage, write_jsonl(tmp_path / "t2.jsonl", [*ROWS, {"text": "x", "label": "billing"}]), holdout).version
    swapped = [{**HOLDOUT[0], "label": "billing"}, HOLDOUT[1]]
    other = frozen(storage, train, write_jsonl(tmp_path / "h2.jsonl", swapped)).version
    assert len({version.hash for version in (first, more, other)}) == 3
    assert len({version.uri for version in (first, more, other)}) == 3
    assert more.holdout_hash == first.holdout_hash != other.holdout_hash


def test_a_row_that_moves_to_the_other_split_is_another_data_set(storage, tmp_path):
    first = frozen(storage, write_jsonl(tmp_path / "t.jsonl", ROWS), write_jsonl(tmp_path / "h.jsonl", HOLDOUT))
    moved = [*HOLDOUT, ROWS[3]]
    second = frozen(storage, write_jsonl(tmp_path / "t2.jsonl", ROWS[:3]), write_jsonl(tmp_path / "h2.jsonl", moved))
    assert first.version.hash != second.version.hash


def test_both_splits_are_read_back_as_they_were_frozen(storage, tmp_path):
    rows = keyword_rows(60, ("billing", "bug", "shipping"), seed=0)
    dataset = frozen(storage, write_jsonl(tmp_path / "t.jsonl", rows), 0.25)
    assert dataset.holdout
    for split, expected in (("train", dataset.train), ("holdout", dataset.holdout)):
        assert load_split(Classification, storage, dataset.version.uri, split) == expected
    record = json.loads(storage.read_dataset(dataset.version.uri, "dataset.json"))
    assert record["hash"] == dataset.version.hash
    assert record["sources"] == {"train": str(tmp_path / "t.jsonl"), "holdout": f"0.25 of {tmp_path}/t.jsonl"}


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_texts_with_line_separators_are_read_back_whole(storage, tmp_path, separator):
    rows = [{"text": f"one{separator}two", "label": "x"}, {"text": f"three{separator}", "label": "y"}]
    dataset = frozen(
        storage, write_jsonl(tmp_path / "t.jsonl", rows), write_jsonl(tmp_path / "h.jsonl", [{**rows[0], "text": "z"}])
    )
    assert load_split(Classification, storage, dataset.version.uri, "train") == examples(rows)


@pytest.mark.parametrize("split", ["train", "holdout"])
def test_a_split_that_was_altered_is_not_read_whichever_split_is_asked_for(tmp_path, split):
    local = Storage(str(tmp_path / "storage"))
    rows = keyword_rows(60, ("billing", "bug"), seed=0)
    dataset = frozen(local, write_jsonl(tmp_path / "t.jsonl", rows), 0.25)
    file = tmp_path / "storage" / dataset.version.uri / f"{split}.jsonl"
    file.write_text(file.read_text().replace("billing", "bug", 1))
    for asked in ("train", "holdout"):
        with pytest.raises(DataError, match="the frozen data set was altered"):
            load_split(Classification, local, dataset.version.uri, asked)


def test_a_data_set_that_was_never_frozen_is_a_storage_error(storage):
    with pytest.raises(StorageError, match="cannot read from storage memory://"):
        load_split(Classification, storage, "models/m/datasets/none", "train")


def test_reading_knows_no_task(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"question": "who?", "answers": {"text": ["me"]}}])
    [row] = sources.read(str(path), "train")
    assert (row.where, row.values) == (f"{path} line 1", {"question": "who?", "answers": {"text": ["me"]}})


# --- a model that is never trained ---------------------------------------------------------------------------------------


def test_without_train_data_the_holdout_judges_with_its_own_labels(storage, tmp_path):
    rows = keyword_rows(40, ("billing", "bug"), seed=0)
    data = DataSettings(holdout=str(write_jsonl(tmp_path / "h.jsonl", rows)))
    dataset = freeze("m", Classification, data, storage)
    assert (dataset.train, len(dataset.holdout)) == ([], 40)
    assert dataset.version.labels == dataset.version.classes == ("billing", "bug")
    assert dataset.version.sources == {"holdout": str(tmp_path / "h.jsonl")}
    assert dataset.version.quarantined_rows == 0


def test_a_run_may_bring_train_data_to_a_model_that_declares_only_a_holdout(storage, tmp_path):
    declared = DataSettings(holdout=str(write_jsonl(tmp_path / "h.jsonl", keyword_rows(40, ("billing", "bug"), seed=0))))
    train = write_jsonl(tmp_path / "t.jsonl", keyword_rows(30, ("billing", "bug"), 1))
    data = declared.model_copy(update={"train": str(train)})
    alone = freeze("m", Classification, declared, storage)
    dataset = freeze("m", Classification, data, storage, declared=declared)
    assert (len(dataset.train), dataset.version.holdout_hash) == (30, alone.version.holdout_hash)


def test_without_any_data_nothing_is_frozen(storage):
    with pytest.raises(DataError, match="m declares no data, so that nothing can be evaluated"):
        freeze("m", Classification, DataSettings(), storage)


def test_rows_that_were_frozen_with_other_rules_for_labels_are_still_read(storage):
    lines = [{"text": "a", "label": "two\nlines"}, {"text": "b", "label": "refund "}, {"text": "c", "label": " "}]
    content = {"train": to_lines(lines), "holdout": b"", "marks": b"", "corrections": b""}
    uri = f"models/m/datasets/{hashes(content)[1]}"
    storage.write_dataset(uri, {"train.jsonl": content["train"], "holdout.jsonl": b""}, {"dataset.json": b"{}"})
    assert [row.label for row in load_split(Classification, storage, uri, "train")] == ["two\nlines", "refund", " "]
