"""Normal forms of texts: what counts as the same, and that it is what Unicode says."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.text.normal_form import normalise


@given(st.text(st.characters(max_codepoint=127)) | st.text())
def test_the_normal_form_is_nfkc_folded_and_with_single_spaces(text: str) -> None:
    once = unicodedata.normalize("NFKC", text).casefold()
    assert normalise(text) == " ".join(unicodedata.normalize("NFKC", once).split())


@pytest.mark.parametrize(
    ("one", "other"),
    [("Where  IS\tit?\n", "where is it?"), ("\x1cA\x1fB", "a b"), ("ﬁne", "FINE"), ("Straße", "STRASSE"), ("a\u3000b", "A B")],
)
def test_texts_that_count_as_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
