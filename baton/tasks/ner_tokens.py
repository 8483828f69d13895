"""The tokens of a text over all its windows: which window labels which token, and which words and entities tokens belong to.

Works on one text at a time and knows neither logits nor scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from baton.tasks.base import IGNORED
from baton.tasks.ner_rows import Span
from baton.tasks.windows import Windows
from baton.text.tags import OUTSIDE
from baton.text.words import word_starts

UNKNOWN = ("[UNK]", "<unk>")
"""How tokenizers write a word that is not in their vocabulary. Such a token is always a word of its own."""


@dataclass(frozen=True, kw_only=True)
class WordPieces:
    """How one tokenizer marks the tokens that continue a word."""

    prefixed: bool
    """Whether they have a prefix, as WordPiece's «##» in «##shaw»."""
    unknown_ids: frozenset[int]
    """The ids of `UNKNOWN` in its vocabulary."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordPieces:
        ids = map(tokenizer.token_to_id, UNKNOWN)
        return cls(
            prefixed=bool(getattr(tokenizer.model, "continuing_subword_prefix", None)),
            unknown_ids=frozenset(number for number in ids if number is not None),
        )


@dataclass(frozen=True, kw_only=True)
class NerWindows(Windows):
    """Windows with what is needed to read their tokens as one text again."""

    overlaps: Sequence[int]
    """``overlaps[i]``: how many tokens neighbouring windows of input i share."""
    word_pieces: WordPieces


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """The n tokens of one text, without special tokens. Each is taken from its owner, the window that labels it."""

    encodings: Sequence[Encoding]
    """The text's windows."""
    owned: Sequence[slice]
    """For each window the positions of the tokens that it owns."""
    offsets: NDArray[np.int64]
    """[n, 2]: the character at which each token begins, and the one after its last."""

    @classmethod
    def of(cls, encodings: Sequence[Encoding], overlap: int) -> TextTokens:
        """``encodings``: the windows of one text, of which neighbours share ``overlap`` tokens."""
        owned = token_owner_slices([_bounds(encoding) for encoding in encodings], overlap)
        offsets = [pair for encoding, part in zip(encodings, owned, strict=True) for pair in encoding.offsets[part]]
        return cls(encodings=encodings, owned=owned, offsets=np.array(offsets, dtype=np.int64).reshape(-1, 2))

    def pick(self, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the logits [n, labels] of the tokens, of ``logits[w]`` [tokens or more, labels] of window w."""
        return np.concatenate([row[part] for row, part in zip(logits, self.owned, strict=True)])

    def spread(self, values: NDArray[np.int64]) -> list[list[int]]:
        """Return for each window the ``values`` [n] of all its tokens, owned or not, and `IGNORED` for special tokens."""
        rows = []
        owned_before = 0
        for encoding, part in zip(self.encodings, self.owned, strict=True):
            first, after = _bounds(encoding)
            begin = owned_before - (part.start - first)  # the window's first token among those of the text
            row = np.full(len(encoding), IGNORED)
            row[first:after] = values[begin : begin + after - first]
            rows.append(row.tolist())
            owned_before += part.stop - part.start
        return rows

    def continue_words(self, text: str, word_pieces: WordPieces) -> NDArray[np.bool_]:
        """Return for each token [n] whether it continues the word of the token before it, by the rule of the HF pipeline.

        If the tokenizer marks such tokens by a prefix (WordPiece), a token continues a word if its length differs from the
        number of characters that it covers: «##shaw» has 6 characters and covers 4. With other tokenizers, a token continues a
        word if no space is next to its first character. Unknown tokens never do.

        Clients get words split as the pipeline splits them, including its errors: a token that lost accents in the
        tokenizer's normalisation is also shorter than its characters, and so counts as a continuation.
        """
        pairs = list(zip(self.encodings, self.owned, strict=True))
        if word_pieces.prefixed:
            lengths = np.array([len(token) for encoding, part in pairs for token in encoding.tokens[part]], dtype=np.int64)
            continues = lengths != self.offsets[:, 1] - self.offsets[:, 0]
        else:
            begins = self.offsets[:, 0].tolist()
            continues = np.array([begin > 0 and " " not in text[begin - 1 : begin + 1] for begin in begins], dtype=bool)
        known = [number not in word_pieces.unknown_ids for encoding, part in pairs for number in encoding.ids[part]]
        return np.asarray(continues & np.array(known, dtype=bool))


def token_owner_slices(bounds: Sequence[tuple[int, int]], overlap: int) -> list[slice]:
    """Return for each window of one text the slice of its positions whose tokens it owns, that is labels.

    Together the slices give each token of the text once, in order. Of the ``overlap`` tokens that two windows share, the
    earlier window owns the first half and the later one the rest: each is labelled where it is farther from the cut.

    Six tokens in the windows [0 1 2 3] and [2 3 4 5] (no special tokens, overlap 2): the first window owns tokens 0, 1, 2,
    the second, at its positions 1 to 3, tokens 3, 4, 5.

    >>> token_owner_slices([(0, 4), (0, 4)], overlap=2)
    [slice(0, 3, None), slice(1, 4, None)]

    Args:
        bounds: for each window the position of its first token that is not special, and the one after its last.
        overlap: tokens that neighbouring windows share.
    """
    begins = [bounds[0][0], *(first + (overlap + 1) // 2 for first, _ in bounds[1:])]
    ends = [*(after - overlap // 2 for _, after in bounds[:-1]), bounds[-1][1]]
    return [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]


def first_tokens_of_words(text: str, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the first token of each word, for the tokens of ``text`` at ``offsets`` [n, 2].

    A token is the first of a word if more words have begun before its end than before the end of any token before it. So
    tokens that share a character (Hangul, taken apart) do not begin its word twice, and a word whose first character the
    tokenizer drops begins with what is left of it. The first token of the text always begins a word.

    The tokens «Ber», «lin», «'» and «s» make the words «Berlin» and «'s»:

    >>> first_tokens_of_words("Berlin's", np.array([(0, 3), (3, 6), (6, 7), (7, 8)])).tolist()
    [0, 2]
    """
    words_begun = np.append(0, np.cumsum(word_starts(text)))  # [k]: words that begin in the first k characters
    most_so_far = np.maximum.accumulate(words_begun[offsets[:, 1]])
    return np.flatnonzero(np.diff(most_so_far, prepend=-1))


def label_words(words: NDArray[np.int64], entities: Sequence[Span], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the index in ``labels`` of each word's label [n], for words at the characters ``words`` [n, 2].

    The first word that shares a character with an entity of type X is B-X, later ones are I-X, all others are O. A word that
    two entities share belongs to the first of them.

    >>> words = np.array([(0, 4), (5, 7), (8, 11), (12, 16)])  # Anna in New York
    >>> entities = [Span(start=0, end=4, label="PER"), Span(start=8, end=16, label="LOC")]
    >>> labels = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    >>> [labels[index] for index in label_words(words, entities, labels)]
    ['B-PER', 'O', 'B-LOC', 'I-LOC']

    Args:
        entities: in the order of the text, without overlaps.
    """
    index = {label: position for position, label in enumerate(labels)}
    result = np.full(len(words), index[OUTSIDE])
    if not entities:
        return result
    starts, ends = np.array([(span.start, span.end) for span in entities]).T
    # Only one entity can be a word's: the first that ends after the word begins. It is, if it starts before the word ends.
    nearest = np.searchsorted(ends, words[:, 0], side="right")
    has_nearest = nearest < len(entities)
    nearest = np.minimum(nearest, len(entities) - 1)
    in_entity = np.flatnonzero(has_nearest & (starts[nearest] < words[:, 1]))
    entity_of = nearest[in_entity]
    result[in_entity] = np.array([index[f"I-{span.label}"] for span in entities])[entity_of]
    named, first = np.unique(entity_of, return_index=True)  # the entities that have words, and the first word of each
    result[in_entity[first]] = np.array([index[f"B-{span.label}"] for span in entities])[named]
    return result


def _bounds(encoding: Encoding) -> tuple[int, int]:
    """Return the position of the first token that is not special, and the one after the last."""
    special = encoding.special_tokens_mask
    count = special.count(0)
    first = special.index(0) if count else len(special)
    return first, first + count
