"""Replicas that tests of the wire dialects share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.dialects import LABELS, Served, serve


@pytest.fixture(scope="module")
def replicas(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Served]]:
    """A replica of model ``m`` for each task, on ports of their own."""
    with contextlib.ExitStack() as stack:
        yield {task: stack.enter_context(serve(task, tiny_base, tmp_path_factory.mktemp(task))) for task in LABELS}
