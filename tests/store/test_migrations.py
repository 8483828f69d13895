"""Databases of every older schema, with data in them, brought up to date: nothing is lost, and the registry works on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from baton.store import database
from baton.store.feedback.predictions import AnswerName
from baton.store.migrations import upgrade
from baton.store.records import RunState
from baton.store.registry import Registry

OLDER = [script.revision for script in ScriptDirectory.from_config(upgrade._alembic()).walk_revisions()][1:]
"""All revisions but the newest."""

RENAMED = {
    ("predictions", "request_id"): "answer_id",
    ("shadow_answers", "request_id"): "answer_id",
    ("predictions", "ambiguous"): None,
}
"""By table and column of an older schema: what the column is called today; None if it is gone."""

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def upgrade_to(engine: sa.Engine, revision: str) -> None:
    config = upgrade._alembic()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def value(column: sa.Column[Any]) -> Any:
    """Something for a column of an old schema, the same each time."""
    if column.name == "model" or (column.table.name == "models" and column.name == "name"):
        return "old"
    if column.name in ("run_id", "decision_id", "id"):
        return "run-1" if isinstance(column.type, sa.String) else 1
    if column.name == "feedback_id":
        return None  # feedback on an audited text does not train
    if column.name in ("state", "stage"):
        return RunState.SUCCEEDED.value
    kinds: list[tuple[type[Any], Any]] = [
        (sa.JSON, {"ü": [1, None]}),
        (sa.DateTime, MOMENT),
        (sa.Boolean, True),
        (sa.Integer, 1),
        (sa.Float, 0.5),
        (sa.LargeBinary, b"\x00\xff"),
        (sa.String, "x"),
    ]
    return next(it for kind, it in kinds if isinstance(column.type, kind))


def rows(engine: sa.Engine, tables: list[str]) -> dict[str, list[dict[str, Any]]]:
    metadata = sa.MetaData()
    metadata.reflect(engine, only=tables)
    with engine.connect() as connection:
        return {name: [dict(row._mapping) for row in connection.execute(metadata.tables[name].select())] for name in tables}


@pytest.mark.parametrize("revision", OLDER)
def test_a_database_of_an_older_schema_keeps_every_row_when_it_is_brought_up_to_date(bare_url, revision):
    engine = database.connect(bare_url)
    upgrade_to(engine, revision)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            if connection.execute(table.select()).first() is None:  # migrations fill some themselves
                connection.execute(table.insert().values({column.name: value(column) for column in table.columns}))
    filled = [table.name for table in metadata.sorted_tables if table.name != "alembic_version"]
    before = rows(engine, filled)
    assert all(len(found) == 1 for found in before.values())

    registry = Registry(bare_url)
    registry.migrate()
    registry.check()
    after = rows(engine, filled)
    engine.dispose()
    for name, [row] in before.items():
        for (table, old), new in RENAMED.items():
            if table == name and old in row:
                kept = row.pop(old)
                if new is not None:
                    assert after[name][0][new] == kept
        assert {key: after[name][0][key] for key in row} == row
    assert registry.champion("old").version == 1
    assert registry.runs.get("run-1").state is RunState.SUCCEEDED
    assert registry.versions.reserve("old", "run-2") == 2
    assert registry.feedback.count_after("old", 0) == (1 if "feedback" in filled else 0)
    registry.close()


def test_a_migration_that_fails_leaves_the_old_schema(bare_url, monkeypatch):
    engine = database.connect(bare_url)
    upgrade_to(engine, OLDER[0])
    tables = set(sa.inspect(engine).get_table_names())
    run = command.upgrade

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        raise RuntimeError("power cut")

    monkeypatch.setattr(command, "upgrade", interrupted)
    with pytest.raises(RuntimeError, match="power cut"):
        upgrade.migrate(engine)
    monkeypatch.undo()
    assert set(sa.inspect(engine).get_table_names()) == tables
    upgrade.migrate(engine)
    upgrade.check(engine)
    engine.dispose()


DECIDED = {"model": "m", "kind": "gate", "verdict": "promote", "sentence": "s", "policy": {}, "created_at": MOMENT}


def test_answers_that_were_logged_before_they_had_ids_are_found_by_their_request_ids_and_stay_corrected(bare_url):
    engine = database.connect(bare_url)
    upgrade_to(engine, "0012_feedback_changes")
    metadata = sa.MetaData()
    metadata.reflect(engine)
    tables = metadata.tables
    answer = {"model": "m", "position": 0, "version": 3, "input": {"text": "t"}, "output": {}, "length": 1}
    told = {"model": "m", "position": 0, "example": {"text": "t", "label": "a"}, "received_at": MOMENT, "version": None}
    with engine.begin() as connection:
        connection.execute(tables["models"].insert().values(name="m", settings={}, champion_sequence=0, created_at=MOMENT))
        for name in ("one", "several"):
            row = {**answer, "request_id": name, "ambiguous": name == "several", "created_at": MOMENT}
            connection.execute(tables["predictions"].insert().values(row))
            connection.execute(tables["feedback"].insert().values({**told, "request_id": name}))
        connection.execute(tables["feedback"].insert().values({**told, "request_id": "lost"}))
    engine.dispose()

    registry = Registry(bare_url)
    registry.migrate()
    names = [AnswerName(None, name, 0) for name in ("one", "several", "lost")]
    found = registry.predictions.find("m", names)
    assert {name.request_id: it and it.answer_id for name, it in found.items()} == {"one": "one"}
    [(corrected, correction)] = registry.predictions.corrected("m", 3, 10)
    assert (corrected.request_id, correction.request_id) == ("one", "one")
    registry.close()


def test_matches_that_version_0_1_played_count_and_its_settings_lose_what_is_gone(bare_url):
    engine = database.connect(bare_url)
    upgrade_to(engine, "0005_keys")
    metadata = sa.MetaData()
    metadata.reflect(engine)
    tables = metadata.tables
    settings = {"name": "m", "data": {"train": "t.jsonl", "feedback_holdout": 0.1}}
    with engine.begin() as connection:
        connection.execute(
            tables["models"]
            .insert()
            .values(name="m", settings=settings, champion_version=1, champion_sequence=1, created_at=MOMENT)
        )
        for number, (candidate, champion, holdout) in enumerate([(1, None, "h"), (2, 1, "h"), (2, 1, "h"), (3, 1, "g")], 1):
            numbers = {"holdout_hash": holdout}
            values = {**DECIDED, "id": number, "candidate": candidate, "champion": champion, "numbers": numbers}
            connection.execute(tables["decisions"].insert().values(values))
        moved = {"id": 1, "model": "m", "sequence": 1, "version": 1, "previous": None, "decision_id": 1, "kind": "gate"}
        connection.execute(tables["promotions"].insert().values({**moved, "created_at": MOMENT}))
        connection.execute(tables["sides"].insert().values(model="m", group_hash="a" * 64, side="holdout"))
    engine.dispose()

    registry = Registry(bare_url)
    registry.migrate()
    assert registry.settings("m")["data"] == {"train": "t.jsonl"}
    assert [registry.decision(number).champion_sequence for number in (1, 2, 3, 4)] == [0, 1, 1, 1]
    assert registry.matches.played("m", 1) == 2
    more = [
        registry.matches.open("m", champion=1, candidate=candidate, holdout_hash="h", groups=["a" * 64])
        for candidate in (2, 4, 5)
    ]
    assert more == [1, 3, 4]
    assert len(registry.audit.secret()) == 32
    registry.close()
