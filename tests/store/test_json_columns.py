"""JSON columns give back what the standard library's JSON would: also for texts and numbers that are seldom met."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from baton.store import database

TABLE = sa.Table("values", sa.MetaData(), sa.Column("value", sa.JSON))

TEXTS = st.text(st.characters(codec=None))
"""Texts, lone surrogates among their characters."""

INNER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)

VALUES = st.none() | st.booleans() | TEXTS | st.lists(INNER) | st.dictionaries(TEXTS, INNER)
"""JSON values that are no bare number, as every JSON column's are. SQLite's JSON columns have numeric affinity: it would keep a
bare number as a float of its own, which may differ in the last digit."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> sa.Engine:
    engine = database.connect(f"sqlite:///{tmp_path_factory.mktemp('json')}/values.db")
    TABLE.metadata.create_all(engine)
    return engine


def kept(engine: sa.Engine, value: Any) -> Any:
    with engine.begin() as connection:
        connection.execute(TABLE.delete())
        connection.execute(TABLE.insert().values(value=value))
        return connection.execute(sa.select(TABLE.c.value)).scalar_one()


@given(value=VALUES)
def test_a_value_comes_back_as_from_json_dumps(engine: sa.Engine, value: Any) -> None:
    assert kept(engine, value) == json.loads(json.dumps(value))


def test_what_is_not_a_number_stays_so(engine: sa.Engine) -> None:
    assert math.isnan(kept(engine, [math.nan])[0])


def test_what_is_no_json_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(sa.exc.StatementError, match="not JSON serializable"):
        kept(engine, [object()])
