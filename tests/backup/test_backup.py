"""Backups are whole or none: taken while others write, verified before they are restored, and never in the way of data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from baton.artifacts.storage import Storage
from baton.backup import record, restoring, taking
from baton.backup.record import Place
from baton.config.model_settings import ServingSettings
from baton.errors import BackupError, ConfigError, Conflict, RegistryError
from baton.predict.predictor import Predictor
from baton.store import database
from baton.store.migrations import upgrade
from baton.store.registry import Registry
from baton.tasks.classification import Classification
from services.host.instance import Instance, StateDirectory, start_of
from tests.support.tiny import save_classifier
from tests.support.waiting import until
from tests.support.world import LABELS, World

WRITER = """
import sys
from baton.store.feedback.correction import Correction
from baton.store.registry import Registry
registry = Registry(sys.argv[1])
number = 0
while True:
    example = {"text": "x" * 200, "label": "bug"}
    rows = [Correction(client_id=f"{number}-{row}", request_id=None, position=0, example=example) for row in range(20)]
    registry.feedback.add("m", rows)
    number += 1
    print(number, flush=True)
"""

TEXTS = ["I was charged twice", "the page is broken", "please end my contract", "where is my parcel"]


def quiet(what: str, done: int, total: int) -> None:
    assert 0 <= done <= total, what


@pytest.fixture(scope="module")
def published(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two versions, of which the second is champion, and the checkpoints of a run."""
    directory = tmp_path_factory.mktemp("published")
    world = World(tiny_base, directory, rows=60)
    checkpoint = save_classifier(tiny_base, LABELS, tmp_path_factory.mktemp("checkpoint") / "it")
    for _ in "ab":
        world.make_champion(world.publish(checkpoint))
    world.storage.write_run_files("r/checkpoint", checkpoint)
    world.registry.close()
    return world


@pytest.fixture
def world(published: World, tmp_path: Path) -> Iterator[World]:
    """A copy of `published` of the test's own."""
    own = copy(published)
    own.directory = tmp_path / "home"
    shutil.copytree(published.directory, own.directory)
    own.storage = Storage(str(own.directory / "storage"))
    own.registry = Registry(f"sqlite:///{own.directory}/baton.db")
    yield own
    own.registry.close()


@pytest.fixture
def place(world: World) -> Place:
    return record.place_of(f"sqlite:///{world.directory}/baton.db", world.storage.url)


def facts(registry: Registry, storage: Storage, *, feedback: int | None = None) -> dict[str, Any]:
    """Everything that must survive; of the feedback the first ``feedback`` rows."""
    champion = registry.champion_version("m")
    assert champion is not None
    directory, manifest = storage.fetch(champion, Path("/nowhere"))
    predictor = Predictor.load(directory, manifest, ServingSettings())
    return {
        "champion": registry.champion("m"),
        "versions": [replace(version, uri="") for version in registry.versions.list("m")],
        "history": registry.history.list("m", limit=100),
        "data sets": {path.name: path.read_bytes() for path in storage.directory.glob("models/m/datasets/*/*")},
        "feedback": list(registry.feedback.all("m"))[:feedback],
        "answers": [output.model_dump() for output in predictor.predict([Classification.Input(text=text) for text in TEXTS])],
    }


def test_what_was_backed_up_while_another_process_wrote_feedback_is_restored_whole(world, place, tmp_path):
    url = f"sqlite:///{place.database}"
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        steps: list[int] = []

        def progress(what: str, done: int, total: int) -> None:
            quiet(what, done, total)
            if what == "database":  # many batches more between two steps of the copy
                steps.append(total)
                for _ in range(3):
                    writer.stdout.readline()

        taking.PAGES, before = 20, taking.PAGES
        try:
            taken = taking.take(place, tmp_path / "backup", progress)
        finally:
            taking.PAGES = before
            writer.kill()
    assert len(steps) > 3
    assert len(set(steps)) == 1  # the copy did not begin again, and did not grow
    assert taken.damaged == {}
    assert not any("/runs/" in name for name in taken.files)

    home = Place(database=tmp_path / "new" / "baton.db", storage=tmp_path / "new" / "storage")
    assert restoring.restore(tmp_path / "backup", home, quiet).aside == ()
    restored = Registry(f"sqlite:///{home.database}")
    stored = len(list(restored.feedback.all("m")))
    assert 400 <= stored < len(list(world.registry.feedback.all("m")))
    assert stored % 20 == 0  # whole batches: one moment, not several
    assert facts(restored, Storage(str(home.storage))) == facts(world.registry, world.storage, feedback=stored)
    restored.check()
    restored.close()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["baton.db", "storage"]


def test_a_wrong_path_is_an_error_and_makes_no_backup(tmp_path):
    """The command that was documented wrote an empty file, with exit status 0."""
    wrong = Place(database=tmp_path / "no" / "baton.db", storage=tmp_path / "storage")
    with pytest.raises(BackupError, match=r"there is no database at .*nothing to back up"):
        taking.take(wrong, tmp_path / "backup", quiet)
    empty = tmp_path / "empty.db"
    sqlite3.connect(empty).close()
    empty.touch()
    with pytest.raises(BackupError, match="is not one of Baton's, or is empty"):
        taking.take(replace(wrong, database=empty), tmp_path / "backup", quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db"]


def test_a_directory_with_something_in_it_or_too_little_space_is_refused(place, tmp_path, monkeypatch):
    used = tmp_path / "used"
    used.mkdir()
    (used / "note").write_text("mine")
    with pytest.raises(BackupError, match="exists and is not empty; name a new directory"):
        taking.take(place, used, quiet)
    assert (used / "note").read_text() == "mine"
    with pytest.raises(BackupError, match="is inside the storage"):
        taking.take(place, place.storage / "backup", quiet)
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(BackupError, match=r"has 0 MB free, and .* are needed"):
        taking.take(place, tmp_path / "backup", quiet)
    assert not (tmp_path / "backup").exists()


def test_a_backup_that_was_broken_off_leaves_nothing_and_one_that_was_killed_is_never_restored(place, tmp_path):
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "storage":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taking.take(place, tmp_path / "backup", interrupt)
    assert not (tmp_path / "backup").exists()
    script = f"""
import os, signal
from pathlib import Path
from baton.backup import record, taking
def kill(what, done, total):
    if what == "storage": os.kill(os.getpid(), signal.SIGKILL)
taking.take(record.place_of("sqlite:///{place.database}", "{place.storage}"), Path("{tmp_path}/backup"), kill)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "backup" / "baton.db").exists()
    with pytest.raises(BackupError, match=r"is not a whole backup: it has no backup.json, which is written last"):
        restoring.restore(tmp_path / "backup", Place(database=tmp_path / "new.db", storage=tmp_path / "new"), quiet)
    with pytest.raises(BackupError, match="it holds a backup that was broken off: delete it"):
        taking.take(place, tmp_path / "backup", quiet)


def altered(name: str) -> Callable[[Path], None]:
    def change(backup: Path) -> None:
        file = next(path for path in sorted(backup.rglob("*")) if path.match(name))
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (altered("*.safetensors"), "was altered since the backup was taken"),
        (altered("baton.db"), "was altered since the backup was taken"),
        (lambda backup: next(backup.rglob("config.json")).unlink(), "is missing; the backup cannot be restored"),
        (lambda backup: (backup / "backup.json").write_text("{"), "backup.json cannot be read"),
        (lambda backup: (backup / "backup.json").unlink(), "is not a whole backup"),
    ],
)
def test_a_backup_that_was_damaged_is_not_restored_and_what_is_there_stays(world, place, tmp_path, damage, expected):
    taking.take(place, tmp_path / "backup", quiet)
    damage(tmp_path / "backup")
    before = facts(world.registry, world.storage)
    world.registry.close()
    with pytest.raises(BackupError, match=expected):
        restoring.restore(tmp_path / "backup", place, quiet, replace=True)
    assert facts(world.registry, world.storage) == before
    assert [path.name for path in world.directory.iterdir() if "restor" in path.name] == []


def test_data_that_are_there_are_only_moved_aside_and_only_if_that_is_asked_for_and_nobody_uses_them(world, place, tmp_path):
    taking.take(place, tmp_path / "backup", quiet)
    was = facts(world.registry, world.storage)
    world.make_champion(world.registry.versions.get("m", 1))
    newer = facts(world.registry, world.storage)
    with pytest.raises(Conflict, match=r"data exist: .*baton.db and .*storage. --replace moves them aside"):
        restoring.restore(tmp_path / "backup", place, quiet)
    with pytest.raises(Conflict, match="another process uses"):  # `world.registry` is open
        restoring.restore(tmp_path / "backup", place, quiet, replace=True)
    assert facts(world.registry, world.storage) == newer
    world.registry.close()
    done = restoring.restore(tmp_path / "backup", place, quiet, replace=True)
    assert facts(Registry(f"sqlite:///{place.database}"), Storage(str(place.storage))) == was
    old_database, old_storage = done.aside
    assert facts(Registry(f"sqlite:///{old_database}"), Storage(str(old_storage))) == newer


@pytest.mark.parametrize("step", ["verifying", "copying"])
def test_restoring_that_is_broken_off_leaves_what_was_there(world, place, tmp_path, step):
    taking.take(place, tmp_path / "backup", quiet)
    before = facts(world.registry, world.storage)
    world.registry.close()

    def interrupt(what: str, done: int, total: int) -> None:
        if what == step and done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restoring.restore(tmp_path / "backup", place, interrupt, replace=True)
    assert facts(world.registry, world.storage) == before
    assert [path.name for path in world.directory.iterdir() if "restor" in path.name] == []


def test_a_storage_that_cannot_be_put_in_place_comes_back(world, place, tmp_path, monkeypatch):
    taking.take(place, tmp_path / "backup", quiet)
    before = facts(world.registry, world.storage)
    world.registry.close()
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name.endswith(restoring.HALF):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(BackupError, match=r"restoring was broken off: .*No space left"):
        restoring.restore(tmp_path / "backup", place, quiet, replace=True)
    assert facts(world.registry, world.storage) == before


def test_a_backup_of_an_older_schema_is_brought_up_to_date_and_one_of_a_newer_schema_is_refused(tmp_path):
    place = Place(database=tmp_path / "baton.db", storage=tmp_path / "storage")
    place.storage.mkdir()
    engine = database.connect(f"sqlite:///{place.database}")
    config = upgrade._alembic()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, upgrade._revisions()[-1])
    engine.dispose()
    taking.take(place, tmp_path / "old", quiet)
    home = Place(database=tmp_path / "new" / "baton.db", storage=tmp_path / "new" / "storage")
    restoring.restore(tmp_path / "old", home, quiet)
    Registry(f"sqlite:///{home.database}").check()

    with sqlite3.connect(place.database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    taking.take(place, tmp_path / "newer", quiet)
    other = Place(database=tmp_path / "other" / "baton.db", storage=tmp_path / "other" / "storage")
    with pytest.raises(RegistryError, match="upgrade Baton"):
        restoring.restore(tmp_path / "newer", other, quiet)
    assert list((tmp_path / "other").iterdir()) == []


def test_a_version_that_is_damaged_in_the_storage_is_told(world, place, tmp_path):
    file = next((place.storage / "models" / "m" / "versions" / "1").glob("*.safetensors"))
    file.write_bytes(b"no")
    taken = taking.take(place, tmp_path / "backup", quiet)
    assert taken.damaged == {"m v1": f"missing or altered: {file.name}"}


def test_other_stores_are_told_by_name_with_what_backs_them_up():
    with pytest.raises(ConfigError, match=r"postgresql://u:\*\*\*@h/d is not a SQLite file: back PostgreSQL up with pg_dump"):
        record.place_of("postgresql://u:p@h/d", "/tmp/s")
    with pytest.raises(ConfigError, match="the storage s3://b/p is not a directory: copy the bucket"):
        record.place_of("sqlite:////tmp/baton.db", "s3://b/p")


# --- the commands --------------------------------------------------------------------------------------------------------


def baton(directory: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("BATON_", "RAY_"))}
    command = [sys.executable, "-m", "services.cli", *map(str, arguments), "-c", str(directory / "baton.yaml")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def write_config(directory: Path, place: Place) -> None:
    model = {"name": "m", "task": "classification", "data": {"train": "train.jsonl"}}
    content = {"database": f"sqlite:///{place.database}", "storage": str(place.storage), "models": [model]}
    (directory / "baton.yaml").write_text(json.dumps(content))


def test_the_commands_say_what_they_did_and_restore_nothing_under_a_running_service(world, place, tmp_path):
    world.registry.close()
    write_config(world.directory, place)
    done = baton(world.directory, "backup", tmp_path / "backup")
    assert (done.returncode, " files, " in done.stdout) == (0, True), done.stderr
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    again = baton(world.directory, "backup", tmp_path / "backup")
    assert (again.returncode, "exists and is not empty" in again.stderr) == (1, True)

    state = StateDirectory(world.directory / ".baton")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as service:
        import psutil

        started = start_of(psutil.Process(service.pid))
        state.write(Instance(id="0", pid=service.pid, started=started, url="http://u", ports={}, address="", directory=""))
        refused = baton(world.directory, "restore", tmp_path / "backup", "--replace")
    assert (refused.returncode, "the service runs at http://u" in refused.stderr) == (1, True)
    until(lambda: service.returncode is not None, 10, "the end of the service")
    state.clear()
    refused = baton(world.directory, "restore", tmp_path / "backup")
    assert (refused.returncode, "--replace moves them aside" in refused.stderr) == (1, True)
    done = baton(world.directory, "restore", tmp_path / "backup", "--replace")
    assert (done.returncode, "what was there before is in" in done.stdout) == (0, True), done.stderr
    assert "API keys are as they were" in done.stderr
