"""Tokens of a text over its windows: the examples in docstrings hold, and what NER knows of a tokenizer."""

from __future__ import annotations

import doctest

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece

from baton.tasks import ner_entities, ner_tokens
from baton.tasks.ner_tokens import WordPieces, token_owner_slices


@pytest.mark.parametrize("module", [ner_entities, ner_tokens])
def test_the_examples_in_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("bounds", "overlap", "slices"),
    [
        ([(0, 4), (0, 4)], 2, [(0, 3), (1, 4)]),
        ([(1, 5), (1, 5)], 2, [(1, 4), (2, 5)]),  # [CLS] before, [SEP] after
        ([(1, 5), (1, 5)], 1, [(1, 5), (2, 5)]),
        ([(1, 5), (1, 3)], 0, [(1, 5), (1, 3)]),
        ([(1, 4)], 2, [(1, 4)]),
        ([(2, 2)], 0, [(2, 2)]),  # no tokens but special ones
    ],
)
def test_each_token_is_owned_by_one_window(bounds, overlap, slices):
    assert token_owner_slices(bounds, overlap) == [slice(*pair) for pair in slices]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (WordPiece({"[UNK]": 3, "a": 1}, unk_token="[UNK]"), WordPieces(prefixed=True, unknown_ids=frozenset({3}))),
        (BPE({"a": 0}, []), WordPieces(prefixed=False, unknown_ids=frozenset())),
        (Unigram([("<unk>", 0.0), ("a", -1.0)], 0), WordPieces(prefixed=False, unknown_ids=frozenset({0}))),
    ],
)
def test_a_tokenizer_shows_how_it_marks_the_tokens_that_continue_a_word(model, expected):
    assert WordPieces.of(Tokenizer(model)) == expected
