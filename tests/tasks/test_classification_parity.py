"""Classification answers what the transformers pipeline answers on the same weights, for texts of any kind."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from baton.artifacts.manifest import Manifest
from baton.config.serving_settings import ServingSettings
from baton.predict.predictor import Predictor
from baton.tasks.text_classifier import TextInput
from tests.support.tiny import FILLERS, TOPICS, save_classifier

LABELS = ("account", "billing", "bug", "cancel", "shipping", "weather")
TEXTS, PAIRS = 500, 250
TOLERANCE = 1e-4

LATIN = (*FILLERS, *(word for words in TOPICS.values() for word in words), "REFUND", "naïve", "straße", "Ærø", "ﬁne", "x1b")
CJK = ("日本語の漢字", "中文", "한국", "漢字かな", "。", "「中」", "全角ＡＢＣ")
EMOJI = ("😀", "🎉🎉", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇫🇷", "☃\ufe0f")
COMBINING = (
    "cafe\u0301",
    "A\u030a\u0323",
    "e\u0301\u0302\u0303",
    "n\u0303",
    "\u0301a",
    "क्षि",
    "ไทย",
    "z\u0335\u0321a\u0321l\u0335go",
)
RIGHT_TO_LEFT = ("שלום", "مرحبا", "\u202eשלום\u202c", "עברית", "\u200fمرحبا\u200e", "שָׁלוֹם")
SPECIAL = (
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "[MASK]",
    "[UNK]",
    "##ing",
    "\x00",
    "\x1b[0m",
    "\ufeff",
    "\u200b",
    "\ufffd",
    "½",
    "İ",
    "\U0001d54f",
)
SPACES = (" ", " ", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "", ", ", "/", "!?", " – ")
KINDS = (LATIN, LATIN, CJK, EMOJI, COMBINING, RIGHT_TO_LEFT, SPECIAL)


def texts(count: int, seed: int) -> list[str]:
    """Distinct texts: some of one script, some of all, from one word to several times the model's length."""
    source = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        words = source.choice([*KINDS, tuple(word for kind in KINDS for word in kind)])
        length = source.choice([1, 2, source.randint(3, 20), source.randint(20, 80), source.randint(150, 400)])
        pieces = [source.choice(words) + source.choice(SPACES) for _ in range(length)]
        text = source.choice(["", "\n", "\t "]) + "".join(pieces)
        if text.strip():
            found[text] = None
    return list(found)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on busy cores wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def directory(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with a random head whose scores differ from text to text, its tokenizer told what a BERT's is told."""
    saved = save_classifier(tiny_base, LABELS, tmp_path_factory.mktemp("classifier"))
    change(saved / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    return saved


@pytest.fixture(scope="module")
def multi_label(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, saved as a multi-label model."""
    copy = Path(shutil.copytree(directory, tmp_path_factory.mktemp("multi-label") / "copy"))
    change(copy / "config.json", problem_type="multi_label_classification")
    return copy


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def answers(task: str, directory: Path, items: Sequence[TextInput], **options: Any) -> list[Any]:
    """Ours, through the predictor that serves, in batches of mixed lengths."""
    manifest = Manifest(
        model="m",
        task=task,
        labels=LABELS,
        max_length=128,
        base_model="tiny",
        dataset={},
        training={},
        metrics={},
        code_version="0",
    )
    predictor = Predictor.load(directory, manifest, ServingSettings(precision="fp32", device="cpu"))
    return predictor.predict(items, [predictor.task.Options(**options)] * len(items))


def expected(directory: Path, items: Sequence[TextInput], **options: Any) -> list[list[dict[str, Any]]]:
    """Theirs, one text at a time."""
    reference = pipeline("text-classification", model=str(directory), tokenizer=str(directory), top_k=None, device="cpu")
    asked = [item.text if item.text_pair is None else dict(item) for item in items]
    return reference(asked, truncation=True, max_length=128, **options)


def assert_same(items: Sequence[TextInput], ours: Sequence[Any], theirs: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    ordered = 0
    for item, output, rows in zip(items, ours, theirs, strict=True):
        scores = {row["label"]: row["score"] for row in rows}
        assert scores.keys() == set(LABELS)
        assert list(output.scores) == pytest.approx([scores[label] for label in output.labels], abs=TOLERANCE), item
        values = [row["score"] for row in rows]
        if all(first - second > 2 * TOLERANCE for first, second in itertools.pairwise(values)):
            ordered += 1
            assert list(output.labels) == [row["label"] for row in rows], item
    assert ordered > 0.7 * len(items)  # in the others two scores are the same but for rounding


@pytest.fixture(scope="module")
def single() -> list[TextInput]:
    return [TextInput(text=text) for text in texts(TEXTS, seed=0)]


@pytest.fixture(scope="module")
def pairs() -> list[TextInput]:
    """Pairs of which either text may be the long one, and of the same text twice."""
    left, right = texts(PAIRS, seed=1), texts(PAIRS, seed=2)
    return [TextInput(text=one, text_pair=other) for one, other in zip(left, [*left[:5], *right[5:]], strict=True)]


# --- the texts -----------------------------------------------------------------------------------------------------------


def test_the_texts_are_of_every_kind_and_length(single):
    assert len({item.text for item in single}) == TEXTS
    together = "".join(item.text for item in single)
    for word in (*CJK, *EMOJI, *COMBINING, *RIGHT_TO_LEFT, *SPECIAL, "\t", "\n", "\r\n"):
        assert word in together
    lengths = sorted(len(item.text) for item in single)
    assert lengths[0] < 5
    assert lengths[-50] > 1000


def test_the_texts_are_answered_differently(directory, single):
    rounded = {tuple(round(score, 3) for score in output.scores) for output in answers("classification", directory, single)}
    assert len(rounded) > 0.75 * TEXTS


# --- answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"function_to_apply": "sigmoid"}], ids=["softmax", "sigmoid"])
def test_a_text_is_scored_and_its_labels_are_ordered_as_the_pipeline_does(directory, single, options):
    ours = answers("classification", directory, single, **options)
    assert_same(single, ours, expected(directory, single, **options))


def test_logits_are_the_pipelines(directory, single):
    some = single[:100]
    options = {"function_to_apply": "none"}
    assert_same(some, answers("classification", directory, some, **options), expected(directory, some, **options))


def test_a_pair_is_scored_as_the_pipeline_does(directory, pairs):
    assert_same(pairs, answers("classification", directory, pairs), expected(directory, pairs))


def test_a_multi_label_model_is_scored_as_the_pipeline_does_unasked(multi_label, single, pairs):
    items = [*single[:250], *pairs[:100]]
    ours, theirs = answers("multi_label", multi_label, items), expected(multi_label, items)
    assert_same(items, ours, theirs)
    for output, rows in zip(ours, theirs, strict=True):
        scores = {row["label"]: row["score"] for row in rows}
        for label, assigned in zip(output.labels, output.assigned, strict=True):
            assert assigned == (scores[label] >= 0.5) or abs(scores[label] - 0.5) < TOLERANCE


def test_a_multi_label_model_answers_softmax_when_asked_as_the_pipeline_does(multi_label, single):
    some = single[:100]
    options = {"function_to_apply": "softmax"}
    assert_same(some, answers("multi_label", multi_label, some, **options), expected(multi_label, some, **options))
