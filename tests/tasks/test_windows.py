"""How texts become windows, by the examples in the docstrings: a text of n tokens is «0 1 2 …», each number a token."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from baton.tasks.classification import Classification
from baton.tasks.ner import Ner
from baton.tasks.ner_entities import NerOptions
from baton.tasks.qa import QaInput, QaOptions, QuestionAnswering
from baton.tasks.text_classifier import ClassificationOptions, TextInput
from baton.tasks.windows import Windows, first_tokens, split_into_windows

QUESTION = 100
"""The first token of another text."""


@pytest.fixture
def numbers() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 999} | {str(number): number for number in range(200)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def text(count: int, first: int = 0) -> str:
    return " ".join(map(str, range(first, first + count)))


@pytest.mark.parametrize(
    ("count", "limit", "stride", "windows"),
    [
        (6, 4, 2, [[0, 1, 2, 3], [2, 3, 4, 5]]),
        (6, 4, 0, [[0, 1, 2, 3], [4, 5]]),
        (6, 4, 3, [[0, 1, 2, 3], [2, 3, 4, 5]]),  # at most half is shared
        (7, 4, 1, [[0, 1, 2, 3], [3, 4, 5, 6]]),
        (4, 4, 2, [[0, 1, 2, 3]]),
        (0, 4, 2, [[]]),
    ],
)
def test_neighbouring_windows_share_the_stride_and_have_no_others_attached(numbers, count, limit, stride, windows):
    found = split_into_windows(numbers.encode(text(count)), limit, stride)
    assert [window.ids for window in found] == windows
    assert not any(window.overflowing for window in found)


def test_the_first_tokens_have_no_others_attached(numbers):
    start = first_tokens(numbers.encode(text(9)), 4)
    assert (start.ids, start.overflowing) == ([0, 1, 2, 3], [])


def test_the_windows_of_an_input_are_a_range():
    windows = Windows(inputs=["a", "b"], ids=[[1]] * 3, type_ids=[[0]] * 3, owner=[0, 0, 1])
    assert windows.ranges_by_input() == [range(0, 2), range(2, 3)]


def test_the_first_text_of_a_pair_begins_each_window_of_the_second(numbers):
    task = Classification(("a", "b"), 8, stride=0, long_text="windows")
    pair = TextInput(text=text(6), text_pair=text(6, QUESTION))
    windows = task.encode(task.prepare_tokenizer(numbers), [pair], [ClassificationOptions()])
    assert windows.ids == [[0, 1, 2, 3, 100, 101, 102, 103], [0, 1, 2, 3, 104, 105]]


def test_a_question_begins_each_window_of_its_context(numbers):
    task = QuestionAnswering((), 8, stride=1)
    item = QaInput(question=text(3, QUESTION), context=text(8))
    windows = task.encode(task.prepare_tokenizer(numbers), [item], [QaOptions()])
    assert windows.ids == [[100, 101, 102, 0, 1, 2, 3, 4], [100, 101, 102, 4, 5, 6, 7]]


def test_windows_of_entities_know_how_many_tokens_they_share_and_how_the_tokenizer_marks_word_pieces(numbers):
    task = Ner(("O",), 4, stride=3)
    inputs = [task.Input(text=text(6)), task.Input(text=text(6))]
    windows = task.encode(task.prepare_tokenizer(numbers), inputs, [NerOptions(), NerOptions(stride=0)])
    assert windows.ids == [[0, 1, 2, 3], [2, 3, 4, 5], [0, 1, 2, 3], [4, 5]]
    assert windows.overlaps == [2, 0]
    assert windows.word_pieces.unknown_ids == {999}
    assert not windows.word_pieces.prefixed
