"""Texts as windows of tokens: what a model reads of a text at once, and how a long one is cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from baton.generation import Generation

CHARACTERS_READ = 16
"""Characters of a text that are tokenised for each token that is used, where the rest of the text is not."""

UNSURE_TOKENS = 64
"""Tokens before a cut that the rest of the text might change, if there was no white space to cut at."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Encoded inputs. One input may have become many windows, which are neighbours here, in the order of its text."""

    inputs: Sequence[Any]
    ids: Sequence[Sequence[int]]
    """``ids[w]``: token ids of window w, special tokens included, unpadded."""
    type_ids: Sequence[Sequence[int]]
    """``type_ids[w]``: segment ids of window w, one for each token."""
    owner: Sequence[int]
    """``owner[w]``: the index in ``inputs`` of the input that window w is part of."""
    encodings: Sequence[Encoding] = ()
    """``encodings[w]``: the tokenizer's record of window w, with the character offsets of its tokens. Empty if the task
    does not need it."""
    tokenizer: Tokenizer | None = None
    """What turns the tokens of answers into text and back. None for tasks whose answers are no texts of their own."""
    generations: Sequence[Generation] = ()
    """``generations[w]``: how the answer to window w is written. Empty if the model writes none."""

    def __len__(self) -> int:
        return len(self.ids)

    def ranges_by_input(self) -> list[range]:
        """Return for each input the indices of its windows: with owners [0, 0, 1], [range(0, 2), range(2, 3)]."""
        owners = np.asarray(self.owner)
        edges = np.searchsorted(owners, np.arange(len(self.inputs) + 1))
        return [range(int(start), int(end)) for start, end in itertools.pairwise(edges)]


def without_truncation(tokenizer: Tokenizer) -> Tokenizer:
    """Switch off ``tokenizer``'s truncation and padding, for tasks that call `split_into_windows`, and return it."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def split_into_windows(encoding: Encoding, limit: int, stride: int) -> list[Encoding]:
    """Split a text's tokens, encoded without special tokens, into windows of at most ``limit`` tokens.

    Neighbouring windows share ``stride`` tokens, but at most half of ``limit``, so that the tokens of all windows together
    grow linearly with the text. Six tokens with ``limit=4`` and ``stride=2`` become the windows [0 1 2 3] and [2 3 4 5]; with
    ``stride=0`` they become [0 1 2 3] and [4 5]. The caller must not use ``encoding`` afterwards.

    `Encoding.truncate` leaves the first window in ``encoding`` and attaches all others to it as its ``overflowing``. None of
    the windows returned here has others attached. Otherwise ``tokenizer.post_process``, which adds the special tokens, would
    combine each window attached to one text with each attached to the other: tens of gigabytes for two long texts.
    """
    if len(encoding) <= limit:
        return [encoding]
    overlap = min(stride, limit // 2)
    step = limit - overlap
    encoding.pad(len(encoding) + step, direction="left")  # shifts the text: its own first token begins window 1
    encoding.truncate(limit, stride=overlap)
    windows: list[Encoding] = encoding.overflowing  # all but window 0
    return windows


def first_tokens(encoding: Encoding, limit: int) -> Encoding:
    """Return the first ``limit`` tokens of a text, without the rest attached (see `split_into_windows`)."""
    return split_into_windows(encoding, limit, 0)[0]


def encode_beginnings(encode: Callable[..., list[Encoding]], texts: Sequence[str], limit: int) -> list[Encoding]:
    """Encode the texts without special tokens: each whole, or so much that its first ``limit`` tokens are those of the whole.

    A text of a megabyte then costs no more than one of `CHARACTERS_READ` · ``limit`` characters. ``encode``: a tokenizer's
    ``encode_batch``, or ``encode_batch_fast``, which does not say where the tokens are in their texts.
    """
    beginnings = [_beginning(text, CHARACTERS_READ * limit) for text in texts]
    encodings = encode(beginnings, add_special_tokens=False)
    for index, (text, beginning) in enumerate(zip(texts, beginnings, strict=True)):
        if len(beginning) < len(text) and len(encodings[index]) < limit + UNSURE_TOKENS:  # its tokens are long, or it is blank
            [encodings[index]] = encode([text], add_special_tokens=False)
    return encodings


def _beginning(text: str, characters: int) -> str:
    """Return about so many characters of a text; if it has white space, it is cut there, because words share no tokens."""
    if len(text) <= 2 * characters:
        return text
    end = next((end for end in range(characters, 2 * characters) if text[end].isspace()), characters)
    return text[:end]
