"""Pairs of texts and long texts, from the request or the data file to the answer."""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from baton.artifacts.manifest import Manifest
from baton.artifacts.storage import Storage
from baton.config.model_settings import DataSettings
from baton.config.serving_settings import ServingSettings
from baton.engines import Batch, Logits
from baton.errors import DataError, InvalidInput
from baton.predict.predictor import Predictor, load_tokenizer
from baton.tasks.classification import Classification, TextExample
from baton.tasks.text_classifier import ClassificationOptions, TextInput
from baton.tasks.windows import CHARACTERS_READ, Windows, encode_beginnings, first_tokens, without_truncation
from baton.text.normal_form import normalise
from services.replica.protocols import huggingface
from tests.support.tiny import FILLERS, FOREIGN, save_classifier
from training.data import datasets, sources
from training.data.splits import split_rows

LABELS = ("billing", "bug", "shipping", "cancel")
FP32 = ServingSettings(precision="fp32", device="cpu")
LOGITS = ClassificationOptions(function_to_apply="none")


def words(count: int, seed: int = 0) -> str:
    source = random.Random(seed)
    return " ".join(source.choice([*FILLERS, *FOREIGN, "unheardof"]) for _ in range(count))


def characters(count: int, seed: int = 0) -> str:
    return (words(count // 3, seed) + " ")[:count].ljust(count, ".")


def encode(tokenizer: Tokenizer, item: TextInput, max_length: int = 128, **options: Any) -> Windows:
    task = Classification(LABELS, max_length, **options)
    return task.encode(task.prepare_tokenizer(tokenizer), [item], [task.Options()])


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """All token ids of a text, none of them special."""
    tokenizer.no_truncation()
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def bodies(windows: Windows) -> list[list[int]]:
    """The windows of single texts without [CLS] and [SEP]."""
    assert all((ids[0], ids[-1]) == (2, 3) for ids in windows.ids)
    return [list(ids[1:-1]) for ids in windows.ids]


def halves(windows: Windows) -> list[tuple[list[int], list[int]]]:
    """The two texts in each window of a pair, by the segments: [CLS] first [SEP] second [SEP]."""
    parts = []
    for ids, types in zip(windows.ids, windows.type_ids, strict=True):
        border = list(types).index(1)
        assert list(types) == [0] * border + [1] * (len(types) - border)
        assert (ids[0], ids[border - 1], ids[-1]) == (2, 3, 3)
        parts.append((list(ids[1 : border - 1]), list(ids[border:-1])))
    return parts


def joined(pieces: Sequence[list[int]], shared: int) -> list[int]:
    """The text of which ``pieces`` are windows that share ``shared`` tokens with their neighbours."""
    whole = list(pieces[0])
    for piece in pieces[1:]:
        assert whole[-shared:] == piece[:shared] or not shared
        assert len(piece) > shared
        whole += piece[shared:]
    return whole


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on busy cores wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Tokenizer:
    """Shared: whoever encodes sets its truncation first."""
    return load_tokenizer(tiny_base)[0]


@pytest.fixture(scope="module")
def directory(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tiny_base, LABELS, tmp_path_factory.mktemp("classifier"))


def predictor(directory: Path, max_length: int = 128, **manifest: Any) -> Predictor:
    fields = {"model": "m", "task": "classification", "labels": LABELS, "base_model": "tiny", "code_version": "0"}
    described = Manifest(max_length=max_length, dataset={}, training={}, metrics={}, **fields, **manifest)
    return Predictor.load(directory, described, FP32)


# --- pairs ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(1, 90), second=st.integers(1, 90), max_length=st.integers(8, 128), seed=st.integers(0, 99))
def test_a_pair_is_encoded_and_cut_as_transformers_does(tiny_base, tokenizer, first, second, max_length, seed):
    pair = TextInput(text=words(first, seed), text_pair=words(second, seed + 100))
    theirs = AutoTokenizer.from_pretrained(tiny_base)(
        pair.text, pair.text_pair, truncation=True, max_length=max_length, return_token_type_ids=True
    )
    windows = encode(tokenizer, pair, max_length)
    assert [list(ids) for ids in windows.ids] == [theirs["input_ids"]]
    assert [list(types) for types in windows.type_ids] == [theirs["token_type_ids"]]


def test_texts_and_pairs_may_be_mixed_in_a_batch(tokenizer):
    task = Classification(LABELS, 32)
    mixed = [TextInput(text="a"), TextInput(text="a", text_pair="b"), TextInput(text=words(90)), TextInput(text="b")]
    windows = task.encode(task.prepare_tokenizer(tokenizer), mixed, [task.Options()] * 4)
    assert list(windows.owner) == [0, 1, 2, 3]
    for item, ids, types in zip(mixed, windows.ids, windows.type_ids, strict=True):
        [alone] = encode(tokenizer, item, 32).ids
        assert ids == alone
        assert (1 in types) == (item.text_pair is not None)


def test_the_order_of_a_pair_matters_and_so_does_which_text_is_which(directory):
    one, other, together = predictor(directory).predict(
        [
            TextInput(text="the invoice", text_pair="a crash"),
            TextInput(text="a crash", text_pair="the invoice"),
            TextInput(text="the invoice a crash"),
        ]
    )
    assert len({output.scores for output in (one, other, together)}) == 3


# --- windows -------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(1, 60), second=st.none() | st.integers(1, 60), seed=st.integers(0, 99))
def test_what_fits_is_the_same_window_as_without_windows(tokenizer, first, second, seed):
    item = TextInput(text=words(first, seed), text_pair=None if second is None else words(second, seed + 100))
    size = 3 + sum(len(plain(tokenizer, text)) for text in (item.text, item.text_pair) if text is not None)
    for max_length in (size, size + 1, size + 50):  # to the very token, whichever of a pair is the longer one
        cut, windows = (encode(tokenizer, item, max_length, long_text=way) for way in ("truncate", "windows"))
        assert (windows.ids, windows.type_ids, list(windows.owner)) == (cut.ids, cut.type_ids, list(cut.owner))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 400), max_length=st.integers(8, 128), stride=st.integers(0, 64), seed=st.integers(0, 99))
def test_windows_cover_the_whole_text_and_share_the_stride_with_their_neighbours(tokenizer, length, max_length, stride, seed):
    text = words(length, seed)
    windows = encode(tokenizer, TextInput(text=text), max_length, long_text="windows", stride=stride)
    pieces = bodies(windows)
    assert joined(pieces, min(stride, (max_length - 2) // 2)) == plain(tokenizer, text)
    assert all(len(ids) == max_length for ids in windows.ids[:-1])
    assert len(windows.ids[-1]) <= max_length
    assert list(windows.owner) == [0] * len(pieces)
    assert {kind for types in windows.type_ids for kind in types} == {0}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.integers(1, 150),
    second=st.integers(1, 300),
    max_length=st.integers(8, 128),
    stride=st.integers(0, 64),
    seed=st.integers(0, 99),
)
def test_the_first_of_a_pair_stands_in_each_window_over_the_second(tokenizer, first, second, max_length, stride, seed):
    pair = TextInput(text=words(first, seed), text_pair=words(second, seed + 100))
    windows = encode(tokenizer, pair, max_length, long_text="windows", stride=stride)
    assert max(map(len, windows.ids)) <= max_length
    heads, pieces = zip(*halves(windows), strict=True)
    whole = plain(tokenizer, pair.text)
    assert all(head == heads[0] for head in heads)
    assert heads[0] == whole[: len(heads[0])]
    room = max_length - 3
    assert len(heads[0]) >= min(len(whole), room // 2)  # cut, if at all, to no less than half the room
    left = room - len(heads[0])
    assert joined(pieces, min(stride, left // 2)) == plain(tokenizer, pair.text_pair)
    if len(heads[0]) < len(whole):
        assert left <= max(room - room // 2, len(pieces[0]))  # and to no less than the second leaves free


def test_a_short_second_text_does_not_cost_the_first_its_place(tokenizer):
    pair = TextInput(text=words(200), text_pair="refund")
    [(head, piece)] = halves(encode(tokenizer, pair, 64, long_text="windows"))
    assert piece == plain(tokenizer, "refund")
    assert len(head) == 64 - 3 - len(piece)


def test_windows_do_not_multiply_where_a_long_first_text_leaves_little_room(tokenizer):
    """A stride of half the window is more than what is left of it: windows would move on token by token."""
    pair = TextInput(text=words(500), text_pair=words(500, seed=1))
    windows = encode(tokenizer, pair, 128, long_text="windows", stride=64)
    moved = (128 - 3) // 4
    assert len(windows) <= len(plain(tokenizer, pair.text_pair)) / moved + 1


@pytest.mark.parametrize("special", [2, 4])
def test_other_special_tokens_are_counted_and_placed_by_the_tokenizer(tiny_base, special):
    """RoBERTa's pairs have four special tokens, and one segment."""
    roberta = load_tokenizer(tiny_base)[0]
    roberta.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), trim_offsets=True, add_prefix_space=False)
    pair = TextInput(text=words(10), text_pair=words(200, seed=1) if special == 4 else None)
    text = pair.text_pair or words(200)
    item = pair if special == 4 else TextInput(text=text)
    windows = encode(roberta, item, 64, long_text="windows", stride=10)
    assert len(windows) > 3
    start = ([2, *plain(roberta, pair.text), 3, 3]) if special == 4 else [2]
    assert all(ids[: len(start)] == start for ids in windows.ids)
    assert all(len(ids) == 64 for ids in windows.ids[:-1])
    assert joined([list(ids[len(start) : -1]) for ids in windows.ids], 10) == plain(roberta, text)
    assert {kind for types in windows.type_ids for kind in types} == {0}


PARTS = (
    *("refund", "the invoice ", " ", "\n\n", "日本語", "x" * 150, "ab" * 300 + " "),
    *("😀", "привет ", "cafe\u0301", "a,b;", "  " * 90),
)


@given(st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 60)), min_size=1, max_size=5), st.sampled_from([4, 16, 64]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_a_long_text_no_more_is_read_than_is_used_and_nothing_changes(tokenizer, parts, max_length):
    text = "".join(part * count for part, count in parts)
    without_truncation(tokenizer)
    whole = first_tokens(tokenizer.encode(text, add_special_tokens=False), max_length)
    [read] = encode_beginnings(tokenizer.encode_batch_fast, [text], max_length)
    assert first_tokens(read, max_length).ids == whole.ids


def test_the_rest_of_a_long_text_is_not_tokenised(tokenizer):
    [read] = encode_beginnings(tokenizer.encode_batch_fast, ["refund the invoice " * 50_000], 64)
    assert 64 < len(read) < 64 * CHARACTERS_READ
    [blank] = encode_beginnings(tokenizer.encode_batch_fast, [" " * 5_000 + "refund"], 64)
    assert blank.ids == tokenizer.encode("refund", add_special_tokens=False).ids, "blanks are no tokens: more must be read"


@pytest.mark.parametrize("way", ["truncate", "windows"])
def test_a_text_of_which_no_token_is_left_is_one_empty_window(tokenizer, way):
    assert list(encode(tokenizer, TextInput(text="\x00\x01"), long_text=way).ids) == [[2, 3]]


def test_truncation_is_what_a_classifier_does_unasked(tokenizer):
    text = TextInput(text=words(400))
    assert Classification(LABELS, 64).long_text == "truncate"
    assert encode(tokenizer, text, 64).ids == encode(tokenizer, text, 64, long_text="truncate").ids
    assert [len(ids) for ids in encode(tokenizer, text, 64).ids] == [64]


def test_neighbours_share_a_quarter_of_the_window_unless_told_otherwise(tokenizer):
    text = TextInput(text=words(300))
    assert (
        encode(tokenizer, text, 64, long_text="windows").ids == encode(tokenizer, text, 64, long_text="windows", stride=16).ids
    )


@pytest.mark.parametrize("pair", [None, 50_000])
@pytest.mark.parametrize("way", ["truncate", "windows"])
def test_fifty_thousand_characters_are_taken_whole_or_cut(tokenizer, way, pair):
    item = TextInput(text=characters(50_000), text_pair=None if pair is None else characters(pair, seed=1))
    windows = encode(tokenizer, item, 128, long_text=way)
    assert max(map(len, windows.ids)) == 128
    if way == "truncate":
        assert len(windows) == 1
    elif pair is None:
        assert joined(bodies(windows), 32) == plain(tokenizer, item.text)
    else:
        _, pieces = zip(*halves(windows), strict=True)
        assert joined(pieces, 31) == plain(tokenizer, item.text_pair)


@pytest.mark.parametrize("way", ["truncate", "windows"])
def test_the_work_for_a_pair_of_long_texts_grows_with_their_length_and_not_with_its_square(tokenizer, way):
    """Some 600 pieces each: were each of one text joined with each of the other, this would take a minute and gigabytes."""
    pair = TextInput(text=characters(120_000), text_pair=characters(120_000, seed=1))
    began = time.process_time()
    windows = encode(tokenizer, pair, 128, long_text=way, stride=64)
    assert time.process_time() - began < 8
    assert len(windows) == 1 if way == "truncate" else len(windows) > 500


# --- answers to long texts -----------------------------------------------------------------------------------------------


ITEMS = (
    TextInput(text="where is my parcel?"),
    TextInput(text=words(500)),
    TextInput(text="the invoice", text_pair=words(400, seed=1)),
    TextInput(text=words(300, seed=2), text_pair="the crash"),
    TextInput(text=words(300, seed=3), text_pair=words(300, seed=4)),
    TextInput(text="日本語 😀\tשלום\n", text_pair="中文"),
)


def logits_of(output: Any) -> list[float]:
    scores = dict(zip(output.labels, output.scores, strict=True))
    return [scores[label] for label in LABELS]


@pytest.mark.parametrize("item", ITEMS, ids=range(len(ITEMS)))
def test_the_answer_to_a_long_text_is_the_mean_of_its_windows_logits(directory, item):
    reader = predictor(directory, 64, long_text="windows", stride=10)
    windows = encode(load_tokenizer(directory)[0], item, 64, long_text="windows", stride=10)
    rows = []
    for ids, types in zip(windows.ids, windows.type_ids, strict=True):
        alone = {"input_ids": [ids], "token_type_ids": [types], "attention_mask": [[1] * len(ids)]}
        rows.append(reader.engine.forward({name: np.array(value) for name, value in alone.items()})["logits"][0])
    [output] = reader.predict([item], [LOGITS])
    assert logits_of(output) == pytest.approx(np.mean(rows, axis=0), abs=1e-4)
    [scores] = reader.predict([item])
    shifted = np.exp(np.array(output.scores) - max(output.scores))
    assert scores.scores == pytest.approx(shifted / shifted.sum(), abs=1e-5)


def test_what_fits_is_answered_the_same_with_and_without_windows(directory):
    fitting = [TextInput(text=words(count, seed=count)) for count in (1, 5, 20)]
    fitting += [TextInput(text=words(count, seed=count), text_pair=words(5)) for count in (1, 5, 20)]
    assert predictor(directory, long_text="windows").predict(fitting) == predictor(directory).predict(fitting)


def test_the_end_of_a_long_text_counts_only_with_windows(directory):
    start = words(200)
    items = [TextInput(text=f"{start} {end}") for end in ("invoice invoice invoice", "crash crash crash")]
    one, other = predictor(directory).predict(items)
    assert one == other
    one, other = predictor(directory, long_text="windows").predict(items)
    assert one != other


def test_a_text_alone_is_answered_as_among_long_texts_and_pairs(directory):
    reader = predictor(directory, long_text="windows")
    together = reader.predict([*ITEMS, *reversed(ITEMS)], [LOGITS] * 12)
    for item, output in zip([*ITEMS, *reversed(ITEMS)], together, strict=True):
        [alone] = reader.predict([item], [LOGITS])
        assert logits_of(output) == pytest.approx(logits_of(alone), abs=1e-4)


def test_probes_of_a_version_with_windows_pass(directory):
    reader = predictor(directory, 16, long_text="windows")
    assert len(encode(load_tokenizer(directory)[0], reader.task.samples()[1], 16, long_text="windows")) > 1
    predictor(directory, 16, long_text="windows").check(reader.probe())


class Lengths:
    """An engine without torch: its logits are how long a window is. Notes the shapes that it is given."""

    description = "lengths"
    overhead_tokens = 64
    length_step = 8
    max_rows = None

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def forward(self, batch: Batch) -> Logits:
        self.shapes.append(batch["input_ids"].shape)
        length = batch["attention_mask"].sum(axis=1)
        return {"logits": np.stack([length, 2 * length, -length, 0 * length], axis=1).astype(np.float32)}


@pytest.mark.parametrize("budget", [64, 300, 2000])
def test_one_long_text_is_spread_over_passes_within_the_token_budget(tiny_base, budget):
    tokenizer, pad_id = load_tokenizer(tiny_base)
    engine = Lengths()
    task = Classification(LABELS, 64, long_text="windows")
    reader = Predictor(task=task, tokenizer=tokenizer, pad_id=pad_id, engine=engine, max_batch_tokens=budget)
    [output] = reader.predict([TextInput(text=characters(50_000))], [LOGITS])
    assert all(rows * width <= budget for rows, width in engine.shapes)
    lengths = [
        len(ids)
        for ids in encode(load_tokenizer(tiny_base)[0], TextInput(text=characters(50_000)), 64, long_text="windows").ids
    ]
    assert sum(rows for rows, _ in engine.shapes) == len(lengths)
    assert logits_of(output) == pytest.approx(np.mean(lengths) * np.array([1, 2, -1, 0]))


def test_the_estimate_of_a_long_text_is_bounded_only_where_it_is_cut():
    cut, windows = (Classification(LABELS, 64, long_text=way) for way in ("truncate", "windows"))
    short, long = TextInput(text="refund"), TextInput(text=characters(9_000))
    pair = TextInput(text=characters(9_000), text_pair=characters(9_000))
    assert cut.estimate_tokens(short) == windows.estimate_tokens(short) < 64
    assert cut.estimate_tokens(long) == cut.estimate_tokens(pair) == 64
    assert 3_000 <= windows.estimate_tokens(long) < windows.estimate_tokens(pair)


# --- targets -------------------------------------------------------------------------------------------------------------


def test_each_window_is_trained_towards_the_label_of_its_text(tokenizer):
    examples = [
        TextExample(text=words(200), label="bug"),
        TextExample(text="refund", label="billing"),
        TextExample(text="refund", text_pair=words(100), label="cancel"),
    ]
    task = Classification(LABELS, 64, long_text="windows")
    inputs = [task.input_of(example) for example in examples]
    windows = task.encode(task.prepare_tokenizer(tokenizer), inputs, [task.Options()] * 3)
    counts = [len(mine) for mine in windows.ranges_by_input()]
    assert counts[0] > 2
    assert counts[1] == 1
    assert counts[2] > 1
    assert task.targets(examples, windows) == [1] * counts[0] + [0] * counts[1] + [3] * counts[2]


# --- requests ------------------------------------------------------------------------------------------------------------


def parse(value: object) -> huggingface.Request:
    return huggingface.parse(json.dumps({"inputs": value}).encode(), Classification, 8)


def test_a_pair_is_one_input():
    request = parse({"text": "a", "text_pair": "b"})
    assert request.single
    assert request.inputs == [TextInput(text="a", text_pair="b")]


def test_a_list_may_mix_texts_and_pairs():
    request = parse(["a", {"text": "b"}, {"text": "c", "text_pair": "d"}, {"text": "e", "text_pair": None}])
    assert not request.single
    expected = [("a", None), ("b", None), ("c", "d"), ("e", None)]
    assert [(item.text, item.text_pair) for item in request.inputs] == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text_pair": "b"}, "inputs.text: missing; allowed: text, text_pair"),
        ({}, "inputs.text: missing; allowed: text, text_pair"),
        ({"text": "a", "pair": "b"}, "inputs.pair: unknown; allowed: text, text_pair"),
        (
            {"text": "a", "text_pair": 7},
            "inputs.text_pair: 7 is not allowed; input should be a valid string; allowed: text, text_pair",
        ),
        (
            {"text": ["a"], "text_pair": "b"},
            "inputs.text: ['a'] is not allowed; input should be a valid string; allowed: text, text_pair",
        ),
        ({"text": "a", "text_pair": " \n"}, "inputs.text_pair: text_pair is empty; send at least one character"),
        ({"text": "", "text_pair": "b"}, "inputs.text: text is empty; send at least one character"),
        (["a", {"text": "a", "text_pair": ""}], "inputs[1].text_pair: text_pair is empty"),
        ([["a", "b"]], "inputs[0]: a text must be a string, not list (['a', 'b'])"),
    ],
)
def test_what_is_no_pair_is_refused_with_what_is_wrong(value, message):
    with pytest.raises(InvalidInput) as caught:
        parse(value)
    assert message in str(caught.value)


# --- frozen data sets ----------------------------------------------------------------------------------------------------

PAIRS = [
    {"text": "is it late?", "text_pair": "the parcel is late", "label": "shipping"},
    {"text": "is it late?", "text_pair": "the invoice is wrong", "label": "billing"},
    {"text": "IS IT  late?", "text_pair": "the parcel\nis late", "label": "shipping"},  # the first again
    {"text": "is it late? the parcel is late", "label": "shipping"},  # one text, not two
    {"text": "is it late? the parcel", "text_pair": "is late", "label": "shipping"},  # parted elsewhere
    {"text": "the parcel is late", "text_pair": "is it late?", "label": "shipping"},  # the other way round
    {"text": "is it late?", "text_pair": "a refund", "label": "billing"},  # stands in the holdout
]
HOLDOUT = [
    {"text": "is it late?", "text_pair": "a refund", "label": "billing"},
    {"text": "is it late?", "text_pair": "the courier", "label": "shipping"},
]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_frozen_pairs_keep_both_texts_and_only_the_same_pair_is_a_repetition(tmp_path):
    data = DataSettings(train=write(tmp_path / "train.jsonl", PAIRS), holdout=write(tmp_path / "holdout.jsonl", HOLDOUT))
    storage = Storage(str(tmp_path / "storage"))
    frozen = datasets.freeze("m", Classification, data, storage)
    assert frozen.train == [TextExample(**row) for row in (*PAIRS[:2], *PAIRS[3:6])]
    assert (frozen.version.removed_duplicates, frozen.version.removed_leaks) == (1, 1)
    for split in ("train", "holdout"):
        assert datasets.load_split(Classification, storage, frozen.version.uri, split) == getattr(frozen, split)
    assert [row.text_pair for row in frozen.holdout] == ["a refund", "the courier"]


def test_repetitions_of_a_pair_never_stand_on_both_sides_of_a_split():
    rows = [
        TextExample(text=text, text_pair=f"{pair} {number}", label=LABELS[number % 2])
        for number in range(60)
        for text, pair in (("is it late?", "the parcel"), ("Is it  LATE?", "the\tparcel"))
    ]
    train, held = split_rows(Classification, rows, 0.3)
    assert len(train) + len(held) == 120
    assert held
    splits = [{normalise(Classification.content(row)) for row in split} for split in (train, held)]
    assert not splits[0] & splits[1]


def test_a_pairs_column_may_have_another_name_and_be_missing_in_some_rows(tmp_path):
    rows = [{"q": "a", "a": "b", "label": "bug"}, {"q": "c", "label": "billing"}, {"q": "d", "a": None, "label": "bug"}]
    source = write(tmp_path / "train.jsonl", rows)
    columns = {"text": "q", "text_pair": "a"}
    found = sources.parse(Classification, columns, sources.read(source, "train"), source)
    assert [(row.text, row.text_pair) for row in found] == [("a", "b"), ("c", None), ("d", None)]


def test_pairs_of_a_csv_file_are_read_and_an_empty_second_text_is_told_with_its_line(tmp_path):
    path = tmp_path / "train.csv"
    for second, broken in (("fine, too", False), ("", True)):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["text", "text_pair", "label"], ["a", "b, c", "bug"], ["d", second, "billing"]])
        if broken:
            with pytest.raises(DataError, match=r"train.csv line 3, field 'text_pair': '': text_pair is empty"):
                sources.parse(Classification, {}, sources.read(str(path), "train"), str(path))
        else:
            found = sources.parse(Classification, {}, sources.read(str(path), "train"), str(path))
            assert [row.text_pair for row in found] == ["b, c", "fine, too"]
