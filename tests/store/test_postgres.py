"""The registry on PostgreSQL alone: many writers at once, outages, and what the server may and may not say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from baton.errors import Conflict, InvalidInput, RegistryError
from baton.store import postgres as driver
from baton.store.database import connect
from baton.store.feedback.correction import Correction
from baton.store.feedback.predictions import AnswerName
from baton.store.migrations.upgrade import migrate
from baton.store.records import Champion, Promotion, RunState
from baton.store.registry import Registry
from tests.store.test_dataset_store import version as dataset
from tests.store.test_registry import HOLDOUT, STATISTICS, gate, publish
from tests.support.answers import logged
from tests.support.stores import Postgres, raw_sql

WRITERS = 20
TURNS = 5


@pytest.fixture
def url(postgres: Postgres, migrated: str) -> Iterator[str]:
    name = postgres.create(migrated)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def outage(stoppable_postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> tuple[Postgres, str]:
    """A server that may be stopped, and a database on it. Its clients lose patience sooner."""
    monkeypatch.setattr(driver, "PING_SECONDS", 0.5)
    monkeypatch.setattr(driver, "CONNECT_SECONDS", 2)
    return stoppable_postgres, stoppable_postgres.url(stoppable_postgres.create())


def at_once(url: str, write: Callable[[Registry, int], object]) -> list[object]:
    """``write(registry, number)`` by 20 writers that start together, each with connections of its own."""
    registries = [Registry(url) for _ in range(WRITERS)]
    barrier = threading.Barrier(WRITERS, timeout=60)

    def run(number: int) -> object:
        try:
            registries[number].champion("m")  # connected
        except BaseException:
            barrier.abort()  # the others must not wait for this one
            raise
        barrier.wait()
        try:
            return write(registries[number], number)
        except Conflict as error:
            return error

    try:
        with ThreadPoolExecutor(WRITERS) as pool:
            return list(pool.map(run, range(WRITERS)))
    finally:
        for registry in registries:
            registry.close()


def deadlocks(url: str) -> int:
    """How many the server had to break in this database. Its clients must have gone: they report when they leave."""
    return int(raw_sql(url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")[0][0])


# --- many writers --------------------------------------------------------------------------------------------------------


def test_twenty_writers_lose_no_update_and_no_number_and_never_stand_in_each_others_way(registry, url):
    run = registry.runs.start(registry.runs.create("m", {}).id)

    def write(own: Registry, number: int) -> None:
        for turn in range(TURNS):
            name = f"{number}-{turn}"
            own.runs.report(run.id, "training", {"writer": number, "turn": turn})
            own.history.add_incident("m", "note", name)
            own.feedback.add("m", [Correction(client_id=it, request_id=it, position=0, example={}) for it in (name, "all")])
            shared = [logged(f"shared-{place}", answer_id=f"{name}-{place}") for place in range(100)]
            own.predictions.log([*shared, logged(name)])
            own.datasets.add(
                "m", dataset("a", feedback_until=number * TURNS + turn), {f"{place}": "train" for place in range(9)}
            )
            version = publish(own, run_id=f"run-{name}")
            own.evaluations.add("m", 1, HOLDOUT, {"f1": 0.5}, STATISTICS)
            own.add_decision(gate(version, None))
            own.declare_model("m", {"writer": number})
            own.retrain.pause("m", name)

    assert at_once(url, write) == [None] * WRITERS
    wanted = WRITERS * TURNS
    assert len(registry.runs.events(run.id)) == wanted
    assert len(registry.history.incidents("m", limit=1000)) == wanted
    assert registry.feedback.count_after("m", 0) == wanted + 1
    names = [AnswerName(None, f"{a}-{b}", 0) for a in range(WRITERS) for b in range(TURNS)]
    assert len(registry.predictions.find("m", names)) == wanted
    assert [it.number for it in registry.versions.list("m", limit=1000)] == list(range(wanted, 0, -1))
    assert registry.datasets.get("m", 1).feedback_until == wanted - 1
    assert len(registry.datasets.ledger("m")) == 9
    registry.close()
    assert deadlocks(url) == 0


def test_of_twenty_that_promote_at_once_exactly_one_wins_every_time(registry, url):
    for move in range(1, 4):
        now = registry.champion("m")
        rivals = [registry.add_decision(gate(publish(registry), now.version, sequence=now.sequence)) for _ in range(WRITERS)]
        results = at_once(url, lambda own, number, rivals=rivals, now=now: own.promote(rivals[number], now))
        [winner] = [result for result in results if isinstance(result, Promotion)]
        assert sum(isinstance(result, Conflict) for result in results) == WRITERS - 1
        assert registry.champion("m") == Champion(version=winner.version, sequence=move)
        assert len(registry.promotions("m")) == move
    registry.close()
    assert deadlocks(url) == 0


def test_a_migration_waits_for_the_one_that_is_under_way(url):
    first, second = connect(url), connect(url)
    with ThreadPoolExecutor(1) as pool, first.connect() as busy:
        with busy.begin():
            driver.begin_migration(busy)
            waiting = pool.submit(migrate, second)
            deadline = time.monotonic() + 60
            while not raw_sql(url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                assert not waiting.done(), "it did not wait"
                assert time.monotonic() < deadline
        waiting.result(timeout=60)
    first.dispose()
    second.dispose()


def test_models_declared_by_several_services_that_start_at_once_are_declared_once(registry, url):
    assert at_once(url, lambda own, number: own.declare_model("new", {"writer": 7})) == [None] * WRITERS
    assert registry.settings("new") == {"writer": 7}


def test_one_run_at_a_time_however_many_ask_for_it(registry, url):
    results = at_once(url, lambda own, number: own.runs.create("m", {}))
    assert sum(isinstance(result, Conflict) for result in results) == WRITERS - 1
    registry.runs.finish(registry.runs.list("m")[0].id, RunState.SUCCEEDED)
    same = at_once(url, lambda own, number: own.runs.create("m", {}, "key").id)
    assert len(set(same)) == 1


@pytest.mark.parametrize("table", ["promotions", "sides"])
def test_tables_that_only_grow_cannot_be_emptied(registry, url, table):
    with pytest.raises(sa.exc.DBAPIError, match=f"{table} is append-only"):
        raw_sql(url, f"TRUNCATE {table}")


# --- outages -------------------------------------------------------------------------------------------------------------


def opened(url: str, wait_s: float = 0.0) -> Registry:
    registry = Registry(url, wait_s=wait_s)
    registry.migrate()
    registry.declare_model("m")
    return registry


def test_a_server_that_is_gone_is_told_and_used_again_when_it_is_back(outage):
    server, url = outage
    registry = opened(url)
    server.stop()
    try:
        for call in (lambda: registry.champion("m"), registry.check, lambda: registry.declare_model("m"), registry.migrate):
            with pytest.raises(RegistryError, match=r"the registry's database does not answer: .*(refused|closed|terminated)"):
                call()
    finally:
        server.start()
    assert registry.champion("m").version is None
    registry.close()


def test_a_server_that_is_frozen_is_told_and_used_again_when_it_goes_on(outage):
    server, url = outage
    registry = opened(url)
    server.freeze()
    try:
        for _ in range(2):
            with pytest.raises(RegistryError, match=r"the registry's database does not answer: .*timeout expired"):
                registry.champion("m")
    finally:
        server.thaw()
    assert registry.champion("m").version is None
    registry.close()


def test_a_server_that_freezes_in_the_middle_of_a_statement_is_given_up(outage, monkeypatch):
    server, url = outage
    monkeypatch.setattr(driver, "STATEMENT_SECONDS", 0.5)
    monkeypatch.setattr(driver, "ANSWER_SECONDS", 0.5)
    engine = connect(url)
    with engine.connect() as connection:
        connection.execute(sa.select(1))
        server.freeze()
        try:
            with pytest.raises(sa.exc.OperationalError, match=r"no answer from the server within 1 s"):
                connection.execute(sa.select(2))
        finally:
            server.thaw()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(3)) == 3
    engine.dispose()


def test_a_statement_that_takes_too_long_is_ended_by_the_server(outage, monkeypatch):
    monkeypatch.setattr(driver, "STATEMENT_SECONDS", 1)
    engine = connect(outage[1])
    with pytest.raises(sa.exc.OperationalError, match="statement timeout"), engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_sleep(60)))
    engine.dispose()


def test_a_patient_client_waits_for_a_server_that_comes_back(outage):
    server, url = outage
    patient, hasty = opened(url, wait_s=120), Registry(url)
    server.stop()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(patient.champion, "m")
        with pytest.raises(RegistryError):
            hasty.champion("m")
        assert not waiting.done()
        server.start()
        assert waiting.result(timeout=60).version is None
    patient.close()
    hasty.close()


# --- what is said --------------------------------------------------------------------------------------------------------


def test_a_refused_change_does_not_quote_the_row(registry):
    answer = logged("r1", text="my secret text")
    with pytest.raises(Conflict, match="the registry refused the change: insert or update on table") as caught:
        registry.predictions.log([type(answer)(**{**vars(answer), "model": "nobody"})])
    with pytest.raises(Conflict, match="null value in column") as again:
        registry.predictions.log([type(answer)(**{**vars(answer), "version": None})])
    for error in (caught.value, again.value, caught.value.__cause__, again.value.__cause__):
        assert "secret" not in str(error).partition("DETAIL")[0]
    assert "secret" not in str(caught.value) + str(again.value)


@pytest.mark.parametrize("text", ["a\0b", "half \ud800 a pair"])
def test_text_that_the_database_cannot_hold_is_an_invalid_input_and_no_outage(registry, text):
    with pytest.raises(InvalidInput, match="the registry's database cannot hold this value: "):
        registry.history.add_incident("m", "note", text)
    with pytest.raises(InvalidInput):
        registry.runs.get(text)


def test_a_missing_driver_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "baton.store.postgres", None)
    monkeypatch.delattr("baton.store.postgres")
    expected = r"cannot be opened: .*; `pip install 'psycopg\[binary\]\S*'` installs the driver"
    with pytest.raises(RegistryError, match=expected) as it:
        Registry("postgresql+psycopg://me:hunter2@host/baton")
    assert "hunter2" not in str(it.value)


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/baton", "postgresql+nosuch://me:hunter2@host/b"])
def test_another_database_is_refused_without_its_password(url):
    with pytest.raises(RegistryError, match=r"cannot be opened: .*examples: sqlite:///.*postgresql\+psycopg://") as it:
        Registry(url)
    assert "hunter2" not in str(it.value)
