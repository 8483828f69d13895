"""Fixtures that several subjects share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.tiny import build_tiny_base

settings.register_profile("untimed", deadline=None)  # a busy machine is no mistake
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random BERT and its tokenizer; read it, do not change it."""
    return build_tiny_base(tmp_path_factory.mktemp("tiny-base"))
