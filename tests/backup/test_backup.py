"""Backups are whole or none: taken while others write, verified before they are restored, and never in the way of data."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from baton.artifacts.storage import Storage
from baton.backup import record, restoring, taking
from baton.backup.record import Place
from baton.config.file import load_config
from baton.config.model_settings import ServingSettings
from baton.errors import BackupError, ConfigError, Conflict, RegistryError
from baton.keys import Scope
from baton.predict.predictor import Predictor
from baton.store import database
from baton.store.migrations import upgrade
from baton.store.records import RunState
from baton.store.registry import Registry
from baton.tasks.classification import Classification
from services.host import supervisor
from services.host.instance import Instance, StateDirectory, start_of
from tests.support.database import migrated_registry
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


def test_a_service_that_never_started_has_no_storage_yet_and_can_be_backed_up(tmp_path):
    folder = tmp_path / "Zoë's #1 100% project"
    folder.mkdir()
    place = record.place_of(f"sqlite:///{folder}/baton.db", str(folder / "storage"))
    with closing(migrated_registry(f"sqlite:///{place.database}")) as registry:  # as `baton keys create` makes it
        registry.keys.create("operator", [Scope.OPERATE])
    taking.take(place, folder / "backup", quiet)
    restoring.restore(folder / "backup", place, quiet, replace=True)
    with closing(Registry(f"sqlite:///{place.database}")) as registry:
        assert [key.name for key in registry.keys.all()] == ["operator"]
    assert place.storage.is_dir()


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
        if path.is_dir() and path.name.endswith(restoring.HALF):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(BackupError, match=r"restoring was broken off: .*No space left"):
        restoring.restore(tmp_path / "backup", place, quiet, replace=True)
    assert facts(world.registry, world.storage) == before
    assert [path.name for path in world.directory.iterdir() if "restor" in path.name] == []


def no_header(content: bytearray) -> bytearray:
    return bytearray(100) + content[100:]


def no_pages(content: bytearray) -> bytearray:
    for page in range(4096, len(content), 4096):
        content[page : page + 100] = b"\xff" * 100
    return content


@pytest.mark.parametrize("damage", [no_header, no_pages, lambda content: content[: len(content) // 3], lambda content: b""])
@pytest.mark.parametrize("journal", [False, True])
def test_a_damaged_database_is_moved_aside_as_it_is_and_replaced(world, place, tmp_path, damage, journal):
    taking.take(place, tmp_path / "backup", quiet)
    was = facts(world.registry, world.storage)
    world.registry.close()
    if journal:  # of a process that was killed
        script = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(place.database)!r}, isolation_level=None)
connection.execute("UPDATE alembic_version SET version_num = version_num")
os.kill(os.getpid(), signal.SIGKILL)
"""
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
        assert all(Path(f"{place.database}{ending}").stat().st_size > 0 for ending in ("-wal", "-shm"))
    damaged = bytes(damage(bytearray(place.database.read_bytes())))
    place.database.write_bytes(damaged)
    journal_was = Path(f"{place.database}-wal").read_bytes() if journal else b""

    done = restoring.restore(tmp_path / "backup", place, quiet, replace=True)
    with closing(Registry(f"sqlite:///{place.database}")) as restored:
        assert facts(restored, Storage(str(place.storage))) == was
    old = done.aside[0]
    if damage is no_header or not damaged:
        assert old.read_bytes() == damaged
        assert not journal or Path(f"{old}-wal").read_bytes() == journal_was
    assert not any(Path(f"{place.database}{ending}").exists() for ending in restoring.JOURNALS)


SWITCH = ["baton.db.restoring", "storage", "storage.restoring", "baton.db", "baton.db.restored-"]
"""What is renamed in the last step, in this order."""


@pytest.mark.parametrize("done", range(1, len(SWITCH)))
@pytest.mark.parametrize("again", [False, True])
def test_restoring_that_is_killed_while_it_renames_is_finished_by_the_next_or_by_a_start(world, place, tmp_path, done, again):
    taking.take(place, tmp_path / "backup", quiet)
    was = facts(world.registry, world.storage)
    world.make_champion(world.registry.versions.get("m", 1))
    newer = facts(world.registry, world.storage)
    world.registry.close()
    script = f"""
import os, signal
from pathlib import Path
from baton.backup import record, restoring
rename, names = Path.rename, []
def counted(path, target):
    if len(names) == {done}: os.kill(os.getpid(), signal.SIGKILL)
    names.append(path.name)
    print(path.name, flush=True)
    return rename(path, target)
Path.rename = counted
place = record.place_of("sqlite:///{place.database}", "{place.storage}")
restoring.restore(Path("{tmp_path}/backup"), place, lambda *_: None, replace=True)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert all(name.startswith(expected) for name, expected in zip(killed.stdout.split(), SWITCH[:done], strict=True))
    if again:
        with pytest.raises(Conflict, match=r"data exist: .*, restored just now: an earlier restoring had been killed"):
            restoring.restore(tmp_path / "backup", place, quiet)
    else:
        said: list[str] = []
        write_config(world.directory, place)
        supervisor.prepare_stores(load_config(world.directory / "baton.yaml", {}), said.append).close()
        assert len(said) == 1
        assert "`baton restore` was killed in its last step, which is done now; what was there before is in" in said[0]
    old_database, old_storage = sorted(path for path in world.directory.iterdir() if restoring.ASIDE in path.name)
    with closing(Registry(f"sqlite:///{place.database}")) as restored:
        assert facts(restored, Storage(str(place.storage))) == was
    with closing(Registry(f"sqlite:///{old_database}")) as old:
        assert facts(old, Storage(str(old_storage))) == newer
    assert restoring.finish(place) is None


def test_restoring_that_cannot_be_finished_says_so_and_replaces_nothing(place):
    for name in ("baton.db.restored-T", "baton.db.before-restore-T"):
        place.database.with_name(name).write_text(name)
    with pytest.raises(BackupError, match=r"killed in its last step, which cannot be finished: .*before-restore-T exists"):
        restoring.finish(place)
    assert place.database.with_name("baton.db.before-restore-T").read_text() == "baton.db.before-restore-T"


@pytest.mark.parametrize("name", ["storage/../evil.txt", "evil.txt", "../evil.txt", "/evil.txt", "storage", "storage/a\0b"])
def test_a_record_that_names_other_files_than_those_of_a_backup_is_refused(place, tmp_path, name):
    taking.take(place, tmp_path / "backup", quiet)
    (tmp_path / "backup" / "evil.txt").write_text("evil")
    content = json.loads((tmp_path / "backup" / "backup.json").read_text())
    content["files"][name] = {"size": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    (tmp_path / "backup" / "backup.json").write_text(json.dumps(content))
    home = Place(database=tmp_path / "new" / "baton.db", storage=tmp_path / "new" / "storage")
    with pytest.raises(BackupError, match=r"the record names .*, outside the backup"):
        restoring.restore(tmp_path / "backup", home, quiet)
    assert not (tmp_path / "new").exists()


def test_modes_survive_and_a_private_database_is_never_readable_for_others(world, place, tmp_path):
    weights = next(place.storage.rglob("*.safetensors"))
    for path, mode in ((place.database, 0o600), (place.storage, 0o700), (weights, 0o640)):
        path.chmod(mode)
    taking.take(place, tmp_path / "backup", quiet)
    home = Place(database=tmp_path / "new" / "baton.db", storage=tmp_path / "new" / "storage")
    seen = set()

    def look(what: str, done: int, total: int) -> None:
        seen.update(path.stat().st_mode & 0o777 for path in home.database.parent.glob("baton.db*"))

    restoring.restore(tmp_path / "backup", home, look)
    assert seen == {0o600}
    kept = (home.database, home.storage, home.storage / weights.relative_to(place.storage))
    assert [path.stat().st_mode & 0o777 for path in kept] == [0o600, 0o700, 0o640]


def test_a_database_that_is_damaged_is_told_in_a_sentence_and_leaves_no_backup(world, place, tmp_path):
    world.registry.close()
    content = bytearray(place.database.read_bytes())
    with sqlite3.connect(place.database) as connection:
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'feedback'").fetchone()
    connection.close()
    content[(page - 1) * 4096 : (page - 1) * 4096 + 100] = b"\xff" * 100
    place.database.write_bytes(content)
    with pytest.raises(BackupError, match=r"the database .*baton.db is damaged: "):
        taking.take(place, tmp_path / "backup", quiet)
    place.database.write_bytes(content[: len(content) // 3])
    with pytest.raises((BackupError, RegistryError), match="malformed"):
        taking.take(place, tmp_path / "backup", quiet)
    assert not (tmp_path / "backup").exists()


def test_a_disk_that_is_full_is_told_in_a_sentence(place, tmp_path):
    """SQLite's own error is no OSError."""
    script = f"""
import resource, signal
from pathlib import Path
from baton.backup import record, taking
from baton.errors import BackupError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
place = record.place_of("sqlite:///{place.database}", "{place.storage}")
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    taking.take(place, Path("{tmp_path}/backup"), lambda *_: None)
except BackupError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.stdout.startswith("the backup was broken off: "), done.stdout + done.stderr
    assert not (tmp_path / "backup").exists()


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


def test_a_run_of_the_time_of_the_backup_is_told_as_ended_by_the_restore(world, place, tmp_path):
    run = world.registry.runs.create("m", {}, started=True)
    taken = taking.take(place, tmp_path / "backup", quiet)
    world.registry.runs.finish(run.id, RunState.SUCCEEDED)
    world.registry.close()
    restoring.restore(tmp_path / "backup", place, quiet, replace=True)
    restored = Registry(f"sqlite:///{place.database}")
    found = restored.runs.get(run.id)
    assert found.state is RunState.CANCELLED
    when = f"{taken.taken_at:%Y-%m-%d %H:%M:%S} UTC"
    assert found.reason == f"ended by the restore: it was running when the backup was taken, {when}"
    assert restored.runs.list(active=True) == []
    restored.close()


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


def test_a_database_inside_the_storage_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match=r"the database .* is inside the storage .*move the database to another directory"):
        record.place_of(f"sqlite:///{tmp_path}/link/baton.db", str(tmp_path))


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
    assert (done.returncode, " files, " in done.stdout, done.stderr) == (0, True, "")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    again = baton(world.directory, "backup", tmp_path / "backup")
    assert (again.returncode, "exists and is not empty" in again.stderr) == (1, True)

    state = StateDirectory(world.directory / ".baton")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as service:
        import psutil

        started = start_of(psutil.Process(service.pid))
        state.write(
            Instance(id="0", pid=service.pid, started_after_boot=started, url="http://u", ports={}, address="", directory="")
        )
        refused = baton(world.directory, "restore", tmp_path / "backup", "--replace")
    assert (refused.returncode, "the service runs at http://u" in refused.stderr) == (1, True)
    until(lambda: service.returncode is not None, 10, "the end of the service")
    state.clear()
    refused = baton(world.directory, "restore", tmp_path / "backup")
    assert (refused.returncode, "--replace moves them aside" in refused.stderr) == (1, True)
    done = baton(world.directory, "restore", tmp_path / "backup", "--replace")
    assert (done.returncode, "what was there before is in" in done.stdout) == (0, True), done.stderr
    assert "API keys are as they were" in done.stderr
