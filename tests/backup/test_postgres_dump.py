"""The commands of docs/operations.md that back PostgreSQL up and restore it, as they stand there, on a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from baton.keys import Scope
from baton.store.registry import Registry
from tests.backup.test_backup import WRITER
from tests.support.local_control import decide, publish
from tests.support.stores import Postgres

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

pytestmark = pytest.mark.skipif(shutil.which("pg_dump") is None, reason="pg_dump is not installed (apt-get install postgresql)")


def documented(program: str, url: str, directory: Path) -> None:
    """Run the line of the page that begins with ``program``."""
    [line] = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"$ {program} ")]
    environment = {**os.environ, "DATABASE": url.replace("+psycopg", "")}
    done = subprocess.run(
        ["bash", "-c", line.removeprefix("$ ")], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_dump_that_was_taken_while_feedback_was_written_brings_back_what_there_was(
    postgres: Postgres, migrated: str, tmp_path: Path
) -> None:
    url, new = postgres.url(postgres.create(migrated)), postgres.url(postgres.create())
    registry = Registry(url)
    registry.declare_model("m", {"gate": {"min_f1": 0.5}})
    registry.keys.create("operator", [Scope.OPERATE])
    for right in (80, 95):
        version = publish(registry, "m", right)
        registry.promote(decide(registry, "m", version.number), registry.champion("m"))
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(5):
            writer.stdout.readline()
        documented("pg_dump", url, tmp_path)
        writer.kill()

    def facts(one: Registry, feedback: int) -> list[object]:
        history = one.history.list("m", limit=100)
        return [one.champion("m"), one.versions.list("m"), history, one.keys.all(), list(one.feedback.all("m"))[:feedback]]

    into_new = Registry(new)
    documented("pg_restore", new, tmp_path)
    into_new.check()
    stored = len(list(into_new.feedback.all("m")))
    assert stored >= 100
    assert stored % 20 == 0  # whole batches: one moment, not several
    assert facts(into_new, stored) == facts(registry, stored)

    into_new.declare_model("later")
    documented("pg_restore", new, tmp_path)  # over a database with tables in it
    assert set(into_new.declared()) == {"m"}
    engine = sa.create_engine(new)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM promotions"))
    engine.dispose()
    for one, address in ((registry, url), (into_new, new)):
        one.close()
        postgres.drop(address.rpartition("/")[2])
