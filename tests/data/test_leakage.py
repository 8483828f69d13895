"""Nothing leaks: whatever base data, feedback and audit do, no text of any holdout is ever in the train split of any version.

Texts are told apart by what they were made from, not by the code under test: each has a number, and is written in many ways.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from baton.artifacts.frozen import read_corrections
from baton.artifacts.storage import Storage
from baton.errors import DataError
from baton.quality import audit
from baton.tasks.classification import Classification
from baton.tasks.multi_label import MultiLabel
from baton.tasks.qa import QuestionAnswering
from baton.text.masks import MASK, masker
from tests.data.test_audited_rows import AuditedData
from training.data.datasets import Dataset

TEXTS = (
    "where is my parcel", "a refund", "naïve café", "straße 7", "ΐ is greek", "ǰ is rare", "ﬁne print", "½ of it", "x y z",
    "日本語 です", "привет мир", "한국어 말", "é", "ς at the end", "I am İstanbul", "q", "late again", "the ™ sign", "Ωmega Å",
    "no 😀 yes",
)  # fmt: skip
LABELS = ("billing", "bug", "shipping")

WAYS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.casefold,
    lambda text: f"\t {text}\n",
    lambda text: text.replace(" ", " \u00a0\u2003 "),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFD", text.upper()),
    lambda text: unicodedata.normalize("NFKD", text),
    lambda text: "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text),
)
"""Ways to write the same text: case, white space, composed or not, full width."""

ORIGIN = {way(text): number for number, text in enumerate(TEXTS) for way in WAYS}
"""Every way of writing a text → the text's number."""

Piece = tuple[int, int, int]
"""Text, way of writing it, answer."""

pieces = st.tuples(st.integers(0, len(TEXTS) - 1), st.integers(0, len(WAYS) - 1), st.integers(0, len(LABELS) - 1))
told = st.sampled_from(["label", "undecidable", "nothing"])
"""What people say about a text that the audit has drawn."""
steps = st.fixed_dictionaries(
    {
        "share": st.sampled_from([0.0, 0.1, 0.5]),
        "requests": st.lists(st.tuples(pieces, told), max_size=8),
        "new_label_after": st.integers(1, 3),
        "other_train": st.none() | st.lists(pieces, min_size=2, max_size=8),
        "train": st.lists(pieces, min_size=4, max_size=14),
        "holdout": st.lists(pieces, min_size=1, max_size=5) | st.sampled_from([0.1, 0.3, 0.6]),
        "feedback": st.lists(pieces, max_size=8),
        "conflicts": st.sampled_from(["latest", "majority"]),
    }
)


def classified(piece: Piece) -> dict[str, Any]:
    text, way, answer = piece
    return {"text": WAYS[way](TEXTS[text]), "label": LABELS[answer]}


def labelled(piece: Piece) -> dict[str, Any]:
    row = classified(piece)
    return {**row, "label": sorted({row["label"], LABELS[piece[1] % 3]}) if piece[1] else []}


def asked(piece: Piece) -> dict[str, Any]:
    text, way, answer = piece
    context = WAYS[way](TEXTS[text])
    first = context.split()[0]
    answers = {"text": [first], "answer_start": [context.index(first)]} if answer else {"text": [], "answer_start": []}
    return {"question": f"question {answer % 2}?", "context": context, "answers": answers}


KINDS = {
    "classification": (Classification, classified),
    "multi_label": (MultiLabel, labelled),
    "qa": (QuestionAnswering, asked),
}


def test_the_ways_of_writing_never_make_one_text_of_two():
    assert len({ORIGIN[text] for text in TEXTS}) == len(TEXTS)
    assert all(ORIGIN[way(text)] == number for number, text in enumerate(TEXTS) for way in WAYS)
    assert len(ORIGIN) > 5 * len(TEXTS)


def origins(examples: Sequence[Any]) -> set[int]:
    """Return the numbers of the texts (contexts) in a split."""
    return {ORIGIN[getattr(example, "context", None) or example.text] for example in examples}


@pytest.fixture(autouse=True, scope="module")
def small_batches() -> Iterator[None]:
    """Audited texts judge in batches of two: there are few texts here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "BATCH", 2)
        yield


def ask_people(growing: AuditedData, step: Mapping[str, Any], row: Callable[[Any], dict[str, Any]]) -> None:
    """Log requests, and let people label some of those that the audit draws."""
    growing.share = step["share"]
    for piece, what in step["requests"]:
        example = row(piece)
        answer = {name: example.pop(name) for name in ("label", "answers") if name in example}
        for item in growing.log(example):
            if what == "label":
                growing.label(item, **answer)
            elif what == "undecidable":
                growing.mark_undecidable(item)


def grow(growing: AuditedData, step: Mapping[str, Any], row: Callable[[Any], dict[str, Any]]) -> Dataset | None:
    """One step: other base files, more feedback, a new version; None where the data cannot be used."""
    growing.train = [row(piece) for piece in step["train"]]
    growing.holdout = step["holdout"] if isinstance(step["holdout"], float) else [row(piece) for piece in step["holdout"]]
    growing.settings = {"conflicts": step["conflicts"], "new_label_after": step["new_label_after"]}
    growing.correct(*(row(piece) for piece in step["feedback"]))
    overridden = {}
    if step["other_train"] is not None:
        path = growing.directory / "other.jsonl"
        path.write_text("".join(json.dumps(row(piece)) + "\n" for piece in step["other_train"]))
        overridden["train"] = str(path)
    try:
        dataset = growing.freeze(**overridden)
    except DataError:
        return None
    if not overridden:
        files = len(growing.train) + (0 if isinstance(growing.holdout, float) else len(growing.holdout))
        assert growing.accounted() == files + len(growing.feedback), "a row is not accounted for"
    assert growing.freeze(**overridden).version.hash == dataset.version.hash, "the same past gave another version"
    return dataset


def held_out(growing: AuditedData) -> list[Any]:
    """Everything that any version holds out: rows that judge, corrections that do not, and all texts that were drawn."""
    rows: list[Any] = [growing.task_cls.Input.model_validate(item.input) for item in growing.audited]
    for version in (dataset.version for dataset in growing.versions):
        rows += read_corrections(growing.task_cls, growing.storage, version.uri, version.corrections_hash)
    return rows + [row for dataset in growing.versions for row in dataset.holdout]


@pytest.mark.parametrize("task", KINDS)
@settings(max_examples=100, deadline=None)
@example(  # texts for the holdout that wait for a label: their split must not be drawn again
    sequence=[
        {
            "train": [(0, 8, 0), (1, 3, 0), (2, 3, 0), (3, 2, 0), (3, 0, 0), (18, 0, 0), (18, 2, 0)],
            "holdout": 0.1,
            "feedback": [],
            "conflicts": "latest",
            "share": 0.0,
            "requests": [],
            "new_label_after": 1,
            "other_train": None,
        }
    ]
)
@given(sequence=st.lists(steps, min_size=2, max_size=6))
def test_no_text_that_is_ever_held_out_is_in_the_train_split_of_any_version(task, sequence):
    task_cls, row = KINDS[task]
    with tempfile.TemporaryDirectory() as directory:
        growing = AuditedData(Path(directory), Storage(f"{directory}/storage"), task_cls)
        for step in sequence:
            ask_people(growing, step, row)
            before = dict(growing.ledger)
            dataset = grow(growing, step, row)
            assert before.items() <= growing.ledger.items(), "the ledger changed"
            assert dataset is not None or before == growing.ledger
        held = origins(held_out(growing))
    event(f"{task}: {min(len(growing.versions) // 2, 4)} versions")
    event(f"{task}: audited rows judge: {any(dataset.version.holdout_audited for dataset in growing.versions)}")
    event(f"{task}: corrections are held out: {any(dataset.version.corrections for dataset in growing.versions)}")
    trained = set().union(*(origins(version.train) for version in growing.versions))
    assert not {TEXTS[number] for number in trained & held}
    assert all(judges(growing, dataset) for dataset in growing.versions)


def judges(growing: AuditedData, dataset: Dataset) -> bool:
    """Whether the last rows, as many as the record says, are requests that were drawn, and no other row comes from feedback."""
    audited = origins(dataset.holdout[len(dataset.holdout) - dataset.version.holdout_audited :])
    drawn = origins([growing.task_cls.Input.model_validate(item.input) for item in growing.audited])
    return audited <= drawn and set(dataset.version.counts["holdout"]) == {"base", "audit"}


# --- personal data -------------------------------------------------------------------------------------------------------

REDACT = (r"\d[\d\s]{3,}\d", r"[a-z.]+@[a-z.]+", r"DE\d\d\w*", r"(?<=dear )\w+", r"(?<=i have )\d")
PRIVATE = (
    "card 1234 5678 is lost", "card 9999 0000 is lost", "my card is lost", "mail Ann@Example.org, please",
    "mail bob@x.de, please", "iban DE12ABC45 is wrong", "iban DE99 is wrong", "Dear Straße, hello", "dear Ann, hello",
    "12345 6789", "1111 1111", "i have 3 cards", "i have 7 cards",
)  # fmt: skip
HIDE = masker(REDACT)


def hidden(text: str) -> str:
    """As the prediction log keeps it."""
    masked: str = HIDE(Classification.Input(text=text)).text
    return masked


WRITTEN: tuple[Callable[[str], str], ...] = (
    str,
    str.casefold,
    lambda text: f" {text}\n",
    lambda text: text.replace(" ", "\u00a0"),
)
MAY_BE: dict[str, set[int]] = {}
"""A text of a data set, with or without masks → the numbers of the texts that it may be."""
for number, text in enumerate(PRIVATE):
    for way in WRITTEN:
        MAY_BE.setdefault(way(text), set()).add(number)
        MAY_BE.setdefault(hidden(way(text)), set()).add(number)

private_pieces = st.tuples(st.integers(0, len(PRIVATE) - 1), st.integers(0, len(WRITTEN) - 1), st.integers(0, 1), st.booleans())
bare_pieces = private_pieces.map(lambda piece: (*piece[:3], False))
private_steps = st.fixed_dictionaries(
    {
        "train": st.lists(private_pieces, min_size=4, max_size=10),
        "holdout": st.lists(bare_pieces, min_size=1, max_size=3) | st.sampled_from([0.1, 0.5]),
        "feedback": st.lists(private_pieces, max_size=8),
        "conflicts": st.sampled_from(["latest", "majority"]),
        "share": st.sampled_from([0.0, 0.5]),
        "requests": st.lists(st.tuples(private_pieces, told), max_size=5),
        "new_label_after": st.just(1),
        "other_train": st.none(),
    }
)


def private(piece: tuple[int, int, int, bool]) -> dict[str, Any]:
    number, way, answer, masked = piece
    text = WRITTEN[way](PRIVATE[number])
    return {"text": hidden(text) if masked else text, "label": LABELS[answer]}


def test_masks_make_one_text_of_several_and_leave_others_alone():
    assert MAY_BE[hidden("card 1234 5678 is lost")] == {0, 1}
    assert MAY_BE["my card is lost"] == {2}
    assert hidden("Dear Straße, hello") == "Dear Straße, hello"
    assert hidden("dear straße, hello") == "dear ██████, hello"


@settings(max_examples=200, deadline=None)
@given(sequence=st.lists(private_steps, min_size=2, max_size=5))
def test_no_text_whose_personal_data_is_masked_is_trained_on_where_it_may_be_a_text_of_a_holdout(sequence):
    with tempfile.TemporaryDirectory() as directory:
        growing = AuditedData(Path(directory), Storage(f"{directory}/storage"))
        growing.redact = REDACT
        for step in sequence:
            ask_people(growing, step, private)
            grow(growing, step, private)
        drawn = len(growing.audited)  # of these, a text that may have been trained on with masks never judges
        judged = {row.text for row in held_out(growing)[drawn:]}
    event(f"masked: {min(len(growing.versions) // 2, 4)} versions")
    trained = {row.text for version in growing.versions for row in version.train if re.search(r"\w", row.text)}
    assert not [text for text in judged if MASK in text]
    assert not {(text, other) for text in trained for other in judged if MAY_BE[text] & MAY_BE[other]}


@settings(max_examples=50, deadline=None)
@given(sequence=st.lists(steps, min_size=1, max_size=4))
def test_the_same_inputs_give_the_same_hashes_and_splits(sequence):
    hashes = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as directory:
            growing = AuditedData(Path(directory), Storage(f"{directory}/storage"))
            datasets = []
            for step in sequence:
                ask_people(growing, step, classified)
                datasets.append(grow(growing, step, classified))
            hashes.append([dataset and (dataset.version.hash, dataset.splits) for dataset in datasets])
    assert hashes[0] == hashes[1]
