"""The examples in docstrings hold."""

from __future__ import annotations

import doctest

import pytest

from baton.text import tags, words


@pytest.mark.parametrize("module", [tags, words])
def test_the_examples_in_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
