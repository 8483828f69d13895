"""Files as annotation tools and spreadsheets write them: their rows, and what is told about the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baton.errors import DataError
from baton.tasks import task_type
from training.data import sources
from training.data.remarks import Remarks


def take(
    directory: Path, task: str, content: str | list[Any], name: str = "t.jsonl", fields: dict[str, str] | None = None
) -> tuple[list[Any], list[str]]:
    """Return the examples of a file as JSON values, and the remarks, without the directory."""
    path = directory / name
    path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)), encoding="utf-8")
    remarks = Remarks()
    located = sources.located(task_type(task), fields or {}, sources.read(str(path), "train"), name, remarks=remarks)
    examples = [one.example.model_dump(mode="json", exclude_none=True) for one in located]
    return examples, [remark.replace(f"{directory}/", "") for remark in remarks]


def complaint(directory: Path, task: str, content: str | list[Any], name: str = "t.jsonl") -> str:
    with pytest.raises(DataError) as told:
        take(directory, task, content, name)
    return str(told.value).replace(f"{directory}/", "")


ANNA = {"text": "Anna lives in Rome.", "entities": [
    {"start": 0, "end": 4, "label": "PER"}, {"start": 14, "end": 18, "label": "LOC"},
]}  # fmt: skip
TRIPLES = [[0, 4, "PER"], [14, 18, "LOC"]]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([{"text": ANNA["text"], "label": TRIPLES}], "doccano.jsonl"),
        ([{"text": ANNA["text"], "labels": TRIPLES}], "t.jsonl"),
        ([{"text": ANNA["text"], "entities": [
            {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 4},
            {"id": 2, "label": "LOC", "start_offset": 14, "end_offset": 18},
        ]}], "doccano.jsonl"),
        ([{"text": ANNA["text"], "spans": [
            {"start": 0, "end": 4, "label": "PER", "token_start": 0}, {"start": 14, "end": 18, "label": "LOC"},
        ], "answer": "accept"}], "prodigy.jsonl"),
        (json.dumps([[ANNA["text"], {"entities": TRIPLES}]]), "spacy.json"),
        ([[ANNA["text"], {"entities": TRIPLES}]], "spacy.jsonl"),
        (json.dumps([ANNA], indent=2), "array.json"),
        (json.dumps([ANNA]), "array.jsonl"),
        (json.dumps({"data": [ANNA]}), "t.json"),
        (json.dumps([{"data": {"text": ANNA["text"]}, "annotations": [{"result": [
            {"type": "labels", "value": {"start": 0, "end": 4, "text": "Anna", "labels": ["PER"]}},
            {"type": "labels", "value": {"start": 14, "end": 18, "text": "Rome", "labels": ["LOC"]}},
        ]}]}]), "label-studio.json"),
        (json.dumps([{"id": 1, "text": ANNA["text"], "label": [
            {"start": 0, "end": 4, "text": "Anna", "labels": ["PER"]},
            {"start": 14, "end": 18, "text": "Rome", "labels": ["LOC"]},
        ]}]), "label-studio-min.json"),
        ([{"text": ANNA["text"], "entities": [
            {"entity_group": "PER", "score": 0.9, "word": "anna", "start": 0, "end": 4},
            {"entity_group": "LOC", "score": 0.9, "word": "rome", "start": 14, "end": 18},
        ]}], "answers-of-a-pipeline.jsonl"),
        ('text;entities\nAnna lives in Rome.;"[[0, 4, ""PER""], [14, 18, ""LOC""]]"\n', "t.csv"),
    ],
)  # fmt: skip
def test_entities_are_read_in_the_forms_of_the_tools(tmp_path: Path, content: Any, name: str) -> None:
    examples, _ = take(tmp_path, "ner", content, name)
    assert examples == [ANNA]


CONLL = "-DOCSTART- -X- -X- O\n\nAnna NNP B-NP B-PER\nlives VBZ B-VP O\n\n\nRome NNP B-NP B-LOC\n"
UNER = "# sent_id = 1\n# text = Anna lives\n1\tAnna\tB-PER\t-\t-\n2\tlives\tO\t-\t-\n\n# sent_id = 2\n1\tRome\tB-LOC\t-\t-\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [(CONLL, "train.txt"), (UNER, "train.iob2"), ("Anna\tB-PER\nlives\tO\n\nRome\tB-LOC\n", "t.conll")],
)
def test_columns_of_tokens_are_read_as_sentences(tmp_path: Path, content: str, name: str) -> None:
    examples, remarks = take(tmp_path, "ner", content, name)
    assert examples == [
        {"text": "Anna lives", "entities": [{"start": 0, "end": 4, "label": "PER"}]},
        {"text": "Rome", "entities": [{"start": 0, "end": 4, "label": "LOC"}]},
    ]
    assert all("not read: 'column" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("content", "tokens", "entities"),
    [
        ("# O\nOslo B-LOC\n", "# Oslo", [[2, 6, "LOC"]]),
        ("#Berlin\tB-LOC\nis\tO\n\n# a comment\nso O\n", "#Berlin is", [[0, 7, "LOC"]]),
        ("0\tAnna\tB-PER\n1\tleft\tO\n\n2\tso\tO\n", "Anna left", [[0, 4, "PER"]]),
        ("EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n", "EU rejects", [[0, 2, "ORG"]]),
    ],
)
def test_columns_mean_what_the_corpora_mean(tmp_path: Path, content: str, tokens: str, entities: list[list[Any]]) -> None:
    examples, _ = take(tmp_path, "ner", content, "t.conll")
    assert examples[0] == {
        "text": tokens, "entities": [dict(zip(("start", "end", "label"), entity, strict=True)) for entity in entities],
    }  # fmt: skip


def test_columns_that_are_not_read_are_told_also_those_that_hold_other_tags(tmp_path: Path) -> None:
    _, remarks = take(tmp_path, "ner", "1\tBerlin\tI-ORG\tB-LOC\n", "t.conll")
    assert remarks == ["t.conll: not read: 'column 1', 'column 3'"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("Anna B-PER\nlives\n", "t.conll line 2: 1 column, the first token has 2"),
        ("Anna NNP\nlives VBZ\n", "t.conll: no column holds a tag like O or B-PER in every line; the first is ['Anna', 'NNP']"),
        (
            "EU B-NP B-ORG\nJohn B-NP B_PER\n",
            "t.conll line 2: column 3 holds tags, and here 'B_PER'; allowed: O, or B-, ",
        ),
        ("EU B-NP ORG\nJohn B-NP O\n", "t.conll line 1: column 3 holds tags, and here 'ORG'"),
        ("\n# nothing\n", "t.conll: the file holds no rows"),
    ],
)
def test_columns_that_cannot_be_read_are_told(tmp_path: Path, content: str, told: str) -> None:
    assert complaint(tmp_path, "ner", content, "t.conll").startswith(told)


SQUAD = {"version": "v2.0", "data": [{"title": "Oslo", "paragraphs": [{"context": "Oslo is in Norway.", "qas": [
    {"id": "q1", "question": "Where is Oslo?", "answers": [{"text": "Norway", "answer_start": 11}], "is_impossible": False},
    {"id": "q2", "question": "Who was Oslo?", "answers": [], "is_impossible": True,
     "plausible_answers": [{"text": "Norway", "answer_start": 11}]},
]}]}]}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
def test_squads_own_files_are_read(tmp_path: Path, indent: int | None) -> None:
    examples, remarks = take(tmp_path, "qa", json.dumps(SQUAD, indent=indent), "train-v2.0.json")
    assert [(one["id"], one["context"], one["answers"]["text"]) for one in examples] == [
        ("q1", "Oslo is in Norway.", ["Norway"]),
        ("q2", "Oslo is in Norway.", []),
    ]
    assert remarks == ["train-v2.0.json: not read: 'title', 'plausible_answers'"]


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"text": "hi", "label": ["greet"]}, "greet"),
        ({"text": "hi", "accept": ["greet"], "options": [{"id": "greet"}, {"id": "part"}], "answer": "accept"}, "greet"),
        ({"text": "hi", "cats": {"greet": 1.0, "part": 0.0}}, "greet"),
        (["hi", {"cats": {"greet": True, "part": False}}], "greet"),
        ({"text": "hi", "label": {"choices": ["greet"]}}, "greet"),
        (
            {"data": {"text": "hi"}, "annotations": [{"result": [{"type": "choices", "value": {"choices": ["greet"]}}]}]},
            "greet",
        ),
    ],
)
def test_labels_are_read_in_the_forms_of_the_tools(tmp_path: Path, row: Any, label: str) -> None:
    assert take(tmp_path, "classification", [row])[0] == [{"text": "hi", "label": label}]
    assert take(tmp_path, "multi_label", [row])[0] == [{"text": "hi", "label": [label]}]


def test_a_row_without_a_label_is_left_out_and_one_with_two_is_told(tmp_path: Path) -> None:
    examples, remarks = take(tmp_path, "classification", [{"text": "a", "label": []}, {"text": "b", "label": "x"}])
    assert examples == [{"text": "b", "label": "x"}]
    assert remarks == ["1 row: left out, because it has no label (first: t.jsonl line 1)"]
    assert "field 'label': ['x', 'y']" in complaint(tmp_path, "classification", [{"text": "a", "label": ["x", "y"]}])


@pytest.mark.parametrize("emptied", [{"text": None, "label": None}, {"text": None}, {"text": " ", "label": "", "id": None}])
def test_a_row_without_any_value_is_nothing(tmp_path: Path, emptied: dict[str, Any]) -> None:
    row = {"text": "hi", "label": "greet"}
    assert take(tmp_path, "classification", [emptied, row, emptied])[0] == [row]
    assert complaint(tmp_path, "classification", [emptied]) == "t.jsonl: the file holds no rows"


@pytest.mark.parametrize(
    "half", [{"text": None, "label": "greet"}, {"text": "", "label": "greet"}, {"text": "hi", "label": None}]
)
def test_a_row_with_half_of_its_values_is_a_mistake(tmp_path: Path, half: dict[str, Any]) -> None:
    assert "t.jsonl: 1 row cannot be used" in complaint(tmp_path, "classification", [{"text": "hi", "label": "greet"}, half])


def test_a_row_that_a_data_frame_emptied_is_nothing(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"text": ["hi", None, "bye"], "label": ["greet", None, "part"]})
    frame.to_parquet(tmp_path / "t.parquet")
    read = sources.read(str(tmp_path / "t.parquet"), "train")
    assert [one.text for one in sources.parse(task_type("classification"), {}, read, "t.parquet")] == ["hi", "bye"]


@pytest.mark.parametrize("triple", [["PER", 0, 4], [0, "PER", 4], [0, 4, None], [0, 4, "PER", "Anna"], [0, 4]])
def test_triples_in_another_order_are_answered_with_the_wanted_form(tmp_path: Path, triple: list[Any]) -> None:
    told = complaint(tmp_path, "ner", [{"text": "Anna lives in Rome.", "entities": [triple]}])
    assert 'expected {"start": 0, "end": 4, "label": "PER"} or [0, 4, "PER"]' in told


@pytest.mark.parametrize(
    ("rows", "kept", "remark"),
    [
        ([{"answer": "accept"}, {"answer": "reject"}, {"answer": "ignore"}], [0], "left out, because its 'answer' is 'reject'"),
        ([{"status": "submitted"}, {"status": "Discarded"}], [0], "left out, because its 'status' is 'discarded'"),
        ([{"verdict": None}, {"verdict": "skip"}], [0], "left out, because its 'verdict' is 'skip'"),
        ([{"skipped": False}, {"skipped": True}], [0], "left out, because its 'skipped' is 'true'"),
        ([{"accepted": True}, {"accepted": False}], [0], "left out, because its 'accepted' is 'false'"),
        ([{"skipped": 0}, {"skipped": True}], [0, 1], "not read: 'skipped'"),
        ([{"status": "shipped"}, {"status": "rejected"}], [0, 1], "not read: 'status'"),
        ([{"status": 3}, {"status": "rejected"}], [0, 1], "not read: 'status'"),
        ([{"answer": "42"}, {"answer": "ignore"}], [0, 1], "not read: 'answer'"),
    ],
)
def test_rows_that_their_annotators_rejected_are_no_examples(
    tmp_path: Path, rows: list[dict[str, Any]], kept: list[int], remark: str
) -> None:
    named = [{"text": f"text {number}", "label": "x", **row} for number, row in enumerate(rows)]
    examples, remarks = take(tmp_path, "classification", named)
    assert [one["text"] for one in examples] == [f"text {number}" for number in kept]
    assert remark in remarks[0]


def test_a_rejected_row_need_not_be_right(tmp_path: Path) -> None:
    rows = [{"text": "fine", "label": "x", "answer": "accept"}, {"text": "", "label": None, "answer": "ignore"}]
    assert len(take(tmp_path, "classification", rows)[0]) == 1


def test_a_column_that_is_a_field_is_no_verdict(tmp_path: Path) -> None:
    rows = [{"text": "a", "answer": "accept"}, {"text": "b", "answer": "reject"}]
    assert len(take(tmp_path, "classification", rows, fields={"label": "answer"})[0]) == 2


@pytest.mark.parametrize(("annotations", "why"), [([], "not annotated"), ([{"was_cancelled": True, "result": []}], "skipped")])
def test_a_task_of_label_studio_that_nobody_finished_is_left_out(tmp_path: Path, annotations: Any, why: str) -> None:
    done = [{"result": [{"value": {"choices": ["x"]}}]}, {"result": [{"value": {"choices": ["y"]}}]}]
    rows = [{"data": {"text": "a"}, "annotations": annotations}, {"data": {"text": "b"}, "annotations": done}]
    examples, remarks = take(tmp_path, "classification", json.dumps(rows), "t.json")
    assert examples == [{"text": "b", "label": "y"}]
    assert why in remarks[0]
    assert remarks[1] == "1 row: annotated more than once; the last annotation is used (first: t.json row 2)"


@pytest.mark.parametrize(("unit", "code", "width"), [("UTF-16 units", "utf-16-le", 2), ("bytes of UTF-8", "utf-8", 1)])
def test_positions_in_other_units_are_converted_where_the_row_says_what_it_reads(
    tmp_path: Path, unit: str, code: str, width: int
) -> None:
    text = "😀 Zoë lives in Rome"
    entities = []
    for name, label in (("Zoë", "PER"), ("Rome", "LOC")):
        start = len(text[: text.index(name)].encode(code)) // width
        entities.append({"start": start, "end": start + len(name.encode(code)) // width, "label": label, "text": name})
    examples, remarks = take(tmp_path, "ner", [{"text": text, "entities": entities}])
    assert [text[one["start"] : one["end"]] for one in examples[0]["entities"]] == ["Zoë", "Rome"]
    assert unit in remarks[0]
    entities[1]["text"] = "Paris"
    assert "but the row says 'Zoë'" in complaint(tmp_path, "ner", [{"text": text, "entities": entities}])


def test_columns_that_nothing_reads_are_told_once(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x", "id": 1}, {"text": "b", "label": "y", "meta": {}, "id": 2}]
    assert take(tmp_path, "classification", rows)[1] == ["t.jsonl: not read: 'id', 'meta'"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            '{"text": "a", "label": "x", "label": "y"}',
            "t.jsonl line 1: the key 'label' stands there twice, with different values",
        ),
        ('{"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}', "write it by rows, in pandas: orient='records'"),
        ('[{"text": "a"}, 7]', "t.jsonl row 2: a JSON object is expected, not 7"),
        ('{"data": [7]}', "t.jsonl line 1, data 1: a JSON object is expected, not 7"),
        (
            '[\n{"text": "a",}\n]',
            "t.jsonl: not valid JSON: Expecting property name enclosed in double quotes at character 14 of line 2",
        ),
        ('{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "not an article in the form of SQuAD's files: KeyError: 'context'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_may_mean_something_else_is_refused(tmp_path: Path, content: str, told: str) -> None:
    assert told in complaint(tmp_path, "classification", content)


def test_labels_are_trimmed_and_composed(tmp_path: Path) -> None:
    rows = [
        {"text": str(number), "label": label} for number, label in enumerate([" r\u00e9clamation", "re\u0301clamation\u00a0"])
    ]
    assert {one["label"] for one in take(tmp_path, "classification", rows)[0]} == {"r\u00e9clamation"}
    spans = [{"text": "Oslo", "entities": [{"start": 0, "end": 4, "label": "LOC "}]}]
    assert take(tmp_path, "ner", spans)[0][0]["entities"][0]["label"] == "LOC"
    assert take(tmp_path, "multi_label", [{"text": "a", "label": ["x ", "y"]}])[0][0]["label"] == ["x", "y"]


@pytest.mark.parametrize("label", ["\u200b", "\ufeff", "\u00ad \u2060", "\u3000"])
def test_a_label_that_nobody_sees_is_blank(tmp_path: Path, label: str) -> None:
    assert "a label is blank" in complaint(tmp_path, "classification", [{"text": "a", "label": label}])


def test_positions_may_be_written_as_text_or_with_decimals(tmp_path: Path) -> None:
    spans = [{"start": "0", "end": 4.0, "label": "PER", "text": "Anna"}]
    assert take(tmp_path, "ner", [{"text": "Anna", "entities": spans}])[0][0]["entities"][0]["end"] == 4
    wrong = [{"start": "0", "end": "5", "label": "ORG", "text": "EU"}]
    assert "but the row says 'EU'" in complaint(tmp_path, "ner", [{"text": "Alpha é EU bloc", "entities": wrong}])


def test_labels_in_cells_of_a_table_are_read_like_those_in_json(tmp_path: Path) -> None:
    content = 'text,label\na,"[""Spam""]"\nb,"{""choices"": [""Ham""]}"\n'
    assert [row["label"] for row in take(tmp_path, "classification", content, "t.csv")[0]] == ["Spam", "Ham"]
    assert [row["label"] for row in take(tmp_path, "multi_label", content, "t.csv")[0]] == [["Spam"], ["Ham"]]


def test_several_questions_of_label_studio_are_not_mixed(tmp_path: Path) -> None:
    result = [{"from_name": name, "value": {"choices": [value]}} for name, value in (("topic", "A"), ("sentiment", "pos"))]
    row = {"data": {"text": "a"}, "annotations": [{"result": result}]}
    assert "it answers several questions (sentiment, topic)" in complaint(tmp_path, "multi_label", json.dumps([row]), "t.json")


@pytest.mark.parametrize(
    "row",
    [
        {"data": {"text": "a"}, "annotations": [{"result": [{"value": None}, 7]}, {"result": None}]},
        {"text": "a", "cats": {"A": "yes"}},
        {"text": "a", "label": {"choices": "A"}},
    ],
)
def test_a_broken_export_is_told_as_an_error_of_its_row(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"t\.json|no rows"):
        take(tmp_path, "classification", json.dumps([row]), "t.json")


def test_two_columns_of_one_name_in_parquet_are_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="two columns are named 'text'"):
        list(sources.read(str(tmp_path / "t.parquet"), "train"))
