"""A real PostgreSQL and a real S3 over HTTP (moto's server) for tests and benchmarks, on loopback, removed afterwards.

Both can be stopped, frozen and started again, as in an outage.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa

from tests.support.waiting import free_port, until

DEBIAN = Path("/usr/lib/postgresql")
"""Directory in which Debian installs the server programs of each major version. It is not in PATH."""

USERS = ("postgres", "nobody")
"""Users as which the server runs if the tests run as root, because it refuses to run as root."""

START_SECONDS = 60.0


def missing_for_postgres() -> str | None:
    """Return why PostgreSQL cannot be started here; None if it can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed (pip install -e '.[postgres]')"
    return None if _programs() else "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"


def missing_for_s3() -> str | None:
    """Return why the S3 server cannot be started here; None if it can."""
    for name in ("s3fs", "moto", "flask"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed (pip install -e '.[dev]')"
    return None


class Postgres:
    """A PostgreSQL server with its own directory, without durability: it is used for one test session."""

    def __init__(self) -> None:
        programs = _programs()
        assert programs is not None
        self._programs = programs
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="baton-pg-"))
        self._user = next((name for name in USERS if _exists(name)), None) if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._directory, self._user)
        (self._data, self._log) = (self._directory / "data", self._directory / "log")
        self._run("initdb", "-D", self._data, "-U", "baton", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start, or start again. Return when it accepts connections."""
        options = (
            f"-p {self.port} -k '' -c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off -c max_connections=200"
        )
        self._control("start", "-l", self._log, "-o", options)

    def stop(self) -> None:
        """Stop at once, without finishing current work."""
        self._control("stop", "-m", "immediate")

    def freeze(self) -> None:
        """Suspend all its processes: their sockets stay open, but get no answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the processes after `freeze`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove its directory."""
        self.thaw()
        self._run("pg_ctl", "-D", self._data, "stop", "-m", "immediate", check=False)
        shutil.rmtree(self._directory, ignore_errors=True)

    def url(self, database: str) -> str:
        """Return SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://baton@127.0.0.1:{self.port}/{database}"

    def create(self, template: str | None = None) -> str:
        """Create a database, as a copy of ``template`` if given. Return its name."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template} STRATEGY file_copy" if template else ""))
        return name

    def drop(self, name: str) -> None:
        """Remove a database, and end the connections to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Execute a statement outside a transaction."""
        import psycopg

        with psycopg.connect(f"postgresql://baton@127.0.0.1:{self.port}/{database}", autocommit=True) as connection:
            connection.execute(statement.encode())

    def _control(self, *arguments: str | Path) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-t", f"{START_SECONDS:.0f}", *arguments)

    def _run(self, program: str, *arguments: str | Path, check: bool = True) -> None:
        become = ["setpriv", f"--reuid={self._user}", "--init-groups", "--reset-env"] if self._user else []
        command = [*become, str(self._programs / program), *map(str, arguments)]
        # not a pipe: the server would inherit it and keep it open
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
            output.seek(0)
            assert done.returncode == 0 or not check, f"{' '.join(command)}:\n{output.read().decode()}"

    def _signal(self, number: int) -> None:
        import psutil

        try:
            server = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
            for process in (server, *server.children()):
                process.send_signal(number)
        except (OSError, psutil.NoSuchProcess):
            return


class S3:
    """moto's S3 server with one bucket. Its content is lost when it stops: use `freeze` for an outage."""

    BUCKET = "baton"

    def __init__(self) -> None:
        self.port = free_port()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        until(self._answers, START_SECONDS, f"moto's server on port {self.port}")
        request = urllib.request.Request(f"{self.endpoint}/{self.BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables with which a process uses it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def url(self) -> str:
        """Return a storage URL with a new prefix."""
        return f"s3://{self.BUCKET}/{uuid.uuid4().hex[:12]}"

    def freeze(self) -> None:
        """Suspend the server: it accepts connections, but does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the server after `freeze`."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the server."""
        self.thaw()
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.close()

    def _answers(self) -> bool:
        assert self._process.poll() is None, "moto's server ended"
        try:
            urllib.request.urlopen(self.endpoint, timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True


def raw_sql(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Execute ``statement`` with the database's own rights, past all of Baton's checks. Return the rows of the result."""
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


def _programs() -> Path | None:
    """Return the directory of the newest installed server programs."""
    found = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).resolve().parent if elsewhere else None


def _exists(user: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
