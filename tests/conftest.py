"""Fixtures that several subjects share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from baton.store.registry import Registry
from tests.support.database import migrated_registry
from tests.support.stores import S3, Postgres, missing_for_postgres, missing_for_s3
from tests.support.tiny import build_tiny_base

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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of the session's own. It runs only where a test asks for it."""
    yield from _postgres()


@pytest.fixture(scope="module")
def stoppable_postgres() -> Iterator[Postgres]:
    """One that may be stopped: the tests of other files do not look at it."""
    yield from _postgres()


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """The name of a database with the schema and no rows, to be copied."""
    name = postgres.create()
    registry = Registry(postgres.url(name))
    registry.migrate()
    registry.close()
    return name


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """An S3 of the session's own. It runs only where a test asks for it."""
    yield from _s3()


@pytest.fixture(scope="module")
def stoppable_s3() -> Iterator[S3]:
    """One that may be stopped: the tests of other files do not look at it."""
    yield from _s3()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database of the test's own."""
    return f"sqlite:///{tmp_path}/baton.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[bool], str]]:
    """A new database of either kind: its URL, with the schema in it where that is wanted."""
    if request.param == "sqlite":
        yield lambda _migrated: f"sqlite:///{tmp_path}/baton.db"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    made: list[str] = []

    def create(migrated: bool) -> str:
        made.append(postgres.create(request.getfixturevalue("migrated") if migrated else None))
        return postgres.url(made[-1])

    yield create
    for name in made:
        postgres.drop(name)


@pytest.fixture
def either_url(either: Callable[[bool], str]) -> str:
    """A database of the test's own: every test runs on SQLite and on PostgreSQL."""
    return either(True)


@pytest.fixture
def bare_url(either: Callable[[bool], str]) -> str:
    """The same, without a schema."""
    return either(False)


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    """The registry in ``url``, which knows the model ``m``."""
    registry = migrated_registry(url)
    registry.declare_model("m")
    yield registry
    registry.close()


def _postgres() -> Iterator[Postgres]:
    if (why := missing_for_postgres()) is not None:
        pytest.skip(why)
    server = Postgres()
    yield server
    server.close()


def _s3() -> Iterator[S3]:
    if (why := missing_for_s3()) is not None:
        pytest.skip(why)
    server = S3()
    yield server
    server.close()
