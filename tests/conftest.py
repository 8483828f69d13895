"""Fixtures that several subjects share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from baton.registry import Registry
from tests.tiny import build_tiny_base

settings.register_profile("untimed", deadline=None)  # a busy machine is no mistake
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random BERT and its tokenizer; read it, do not change it."""
    return build_tiny_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads on busy cores wait for each other most of the time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of the test's own."""
    return f"sqlite:///{tmp_path}/baton.db"


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    """The registry in ``url``, which knows the model ``m``."""
    registry = Registry(url)
    registry.migrate()
    registry.declare_model("m")
    yield registry
    registry.close()
