"""Connections to PostgreSQL that never hang: a server that is down, frozen or behind a broken network fails a call in seconds.

What the server can bound itself (a long statement, a lock that is not released) it is told to; what it cannot (it no longer
answers, though its machine still acknowledges packets) is bounded here. Knows no tables.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy import event

CONNECT_SECONDS = 3
"""How long a server may take to accept a connection; libpq counts in whole seconds."""

PING_SECONDS = 3.0
"""How long a pooled connection may take to show that it is alive, before a transaction begins on it."""

STATEMENT_SECONDS = 30.0
"""How long a statement may run, and wait for a lock."""

MIGRATION_SECONDS = 3600.0
"""The same while the schema changes."""

ANSWER_SECONDS = 5.0
"""How much longer the client waits than the server may take: then it is the server that does not answer."""

POOL_SECONDS = 5.0
"""How long a call waits for one of the pool's connections while all of them are in use."""

RETRY_SECONDS = 1.0


class Connection(psycopg.Connection[Any]):
    """A connection that is given up when the server does not answer for ``patience`` seconds."""

    patience: float = CONNECT_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """psycopg's own point of waiting. Raises ``OperationalError``, with the connection closed, when patience runs out."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # an answer that comes late would be taken for the one to the next question
            raise psycopg.OperationalError(f"no answer from the server within {self.patience:g} s") from error


def engine(url: sa.URL, wait_s: float) -> sa.Engine:
    """An engine for a PostgreSQL ``url``.

    ``wait_s``: how long a transaction may wait, before it begins, for a server that does not take connections. 0 fails at once.
    """
    created = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_timeout=POOL_SECONDS,
        hide_parameters=True,  # they hold users' texts
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,  # ms; packets that nobody acknowledges
            "options": f"-c statement_timeout={STATEMENT_SECONDS:.0f}s -c lock_timeout={STATEMENT_SECONDS:.0f}s "
            "-c idle_in_transaction_session_timeout=60s -c timezone=UTC",
        },
    )

    @event.listens_for(created, "do_connect")
    def open_(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Any:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return Connection.connect(*arguments, **options)
            except psycopg.OperationalError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    # SQLAlchemy pings between `checkin` and `checkout`.
    @event.listens_for(created, "checkout")
    def work(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.patience = STATEMENT_SECONDS + ANSWER_SECONDS

    @event.listens_for(created, "checkin")
    def rest(connection: Any, _record: Any) -> None:
        if connection is not None:
            connection.patience = PING_SECONDS

    return created


def begin_migration(connection: sa.Connection) -> None:
    """One migration at a time, whoever starts; and it may take long. Holds until the transaction ends."""
    driver: Any = connection.connection.driver_connection
    driver.patience = MIGRATION_SECONDS
    for setting in ("statement_timeout", "lock_timeout"):
        connection.exec_driver_sql(f"SET LOCAL {setting} = '{MIGRATION_SECONDS:.0f}s'")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("baton migration"))))


def complaint(error: psycopg.Error) -> str:
    """The server's own words without those parts (DETAIL, CONTEXT) that quote whole rows."""
    return error.diag.message_primary or str(error).strip().partition("\n")[0]
