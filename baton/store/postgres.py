"""Connections to PostgreSQL that never hang: if the server is down, frozen or unreachable, a call fails within seconds.

The server itself limits long statements and waits for locks, by settings of each connection. A server that no longer responds
although its machine still acknowledges packets cannot do so: `Connection` limits that wait. Knows no tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy import event

CONNECT_SECONDS = 3
"""Maximum time for the server to accept a connection. An integer, because libpq takes whole seconds."""

PING_SECONDS = 3.0
"""Maximum time for a pooled connection to respond to the ping before each transaction."""

STATEMENT_SECONDS = 30.0
"""Maximum time for a statement to run, and to wait for a lock."""

MIGRATION_SECONDS = 3600.0
"""Maximum time for a statement of a migration to run, and to wait for a lock."""

ANSWER_SECONDS = 5.0
"""Time that the client waits beyond `STATEMENT_SECONDS` before it gives up the connection."""

POOL_SECONDS = 5.0
"""Maximum time that a call waits for a connection of the pool while all of them are in use."""

RETRY_SECONDS = 1.0
"""Pause between two attempts to connect to a server that is down."""


class Connection(psycopg.Connection[Any]):
    """A connection that closes itself when the server does not respond in time."""

    patience: float = CONNECT_SECONDS
    """Seconds to wait for a response of the server."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, at most for `patience`. Then close the connection and raise ``OperationalError``."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.patience)
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.pgconn.finish()  # a late response would be taken for the response to the next statement
            raise psycopg.OperationalError(f"no answer from the server within {self.patience:g} s") from error


def engine(url: sa.URL, wait_s: float, json_serializer: Callable[[Any], str], *, read_only: bool = False) -> sa.Engine:
    """Return an engine for a PostgreSQL ``url``.

    ``wait_s``: how many seconds a transaction waits, before it begins, for a server that is down. 0: fail at once.
    ``json_serializer``: turns the values of JSON columns into text.
    ``read_only``: let the server refuse every write.
    """
    created = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_timeout=POOL_SECONDS,
        json_serializer=json_serializer,
        hide_parameters=True,  # parameters hold users' texts, which must not reach error messages
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,  # ms until unacknowledged packets break the connection
            "options": f"-c statement_timeout={STATEMENT_SECONDS:.0f}s -c lock_timeout={STATEMENT_SECONDS:.0f}s "
            "-c idle_in_transaction_session_timeout=60s -c timezone=UTC"
            + (" -c default_transaction_read_only=on" if read_only else ""),
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
    """Serialise migrations and give them `MIGRATION_SECONDS`, both until the transaction of ``connection`` ends."""
    driver: Any = connection.connection.driver_connection
    driver.patience = MIGRATION_SECONDS
    for setting in ("statement_timeout", "lock_timeout"):
        connection.exec_driver_sql(f"SET LOCAL {setting} = '{MIGRATION_SECONDS:.0f}s'")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("baton migration"))))


def message_of(error: psycopg.Error) -> str:
    """Return the server's message without the parts (DETAIL, CONTEXT) that quote whole rows."""
    return error.diag.message_primary or str(error).strip().partition("\n")[0]
