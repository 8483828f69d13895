"""Artifacts: published whole or not at all, and verified whenever they are read."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.fs
import pytest

from baton.artifacts import manifest as manifests
from baton.artifacts.manifest import FileEntry, Manifest
from baton.artifacts.storage import Storage
from baton.artifacts.version_cache import name_of
from baton.errors import CorruptVersion, StorageError
from baton.store.records import ModelVersion
from tests.support.stores import S3
from tests.support.waiting import free_port
from training.fit.trainer import filesystem_of

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "nested/deep/vocab.txt": "naïve ☃\n".encode()}


def manifest(model: str = "m") -> Manifest:
    return Manifest(
        model=model,
        task="classification",
        labels=("a", "b"),
        max_length=32,
        base_model="tiny",
        dataset={"hash": "d"},
        training={"epochs": 1},
        metrics={"f1": 0.9},
        code_version="0.1.0",
    )


def version(number: int, sha256: str, uri: str = "") -> ModelVersion:
    return ModelVersion(
        model="m",
        number=number,
        uri=uri,
        manifest_sha256=sha256,
        metrics={},
        lineage={},
        run_id=None,
        created_at=datetime.now(UTC),
    )


def content_of(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != manifests.NAME]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "source"


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "storage"))


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A real S3 over HTTP, which this process finds as any would: by its environment."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    forget_connections()
    return s3


def forget_connections() -> None:
    """fsspec keeps one connection for each set of options; where it goes was read from the environment when it was made."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> Storage:
    if request.param == "s3":
        return Storage(request.getfixturevalue("bucket").url())
    return Storage(f"memory://{uuid.uuid4().hex}")


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request: pytest.FixtureRequest, local: Storage) -> Storage:
    if request.param == "s3":
        return Storage(request.getfixturevalue("bucket").url())
    return local if request.param == "local" else Storage(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def published(local: Storage, source: Path) -> ModelVersion:
    uri, sha256 = local.publish(3, source, manifest())
    return version(3, sha256, uri)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# --- local storage -------------------------------------------------------------------------------------------------------


def test_what_is_published_is_what_is_fetched(local, published, cache):
    directory, read = local.fetch(published, cache)
    assert content_of(directory) == FILES
    assert read.model_copy(update={"files": {}}) == manifest()
    assert read.files["config.json"].size == 2
    assert str(directory) == published.uri


def test_local_versions_are_not_copied_to_the_cache(local, published, cache):
    local.fetch(published, cache)
    assert not cache.exists()


def test_a_published_directory_holds_nothing_but_the_files_and_the_manifest(local, published, cache):
    directory, _ = local.fetch(published, cache)
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert names == {*FILES, "baton.json"}


def test_storage_that_is_not_there_does_not_call_a_version_corrupt(storage, cache):
    with pytest.raises(StorageError, match="is not there; is its volume mounted, does its bucket exist"):
        storage.fetch(version(1, "0" * 64), cache)


def test_a_version_number_that_was_never_published_is_corrupt(local, published, cache):
    with pytest.raises(CorruptVersion, match=r"m v9: .* has no baton.json; it was never published whole"):
        local.fetch(version(9, "0" * 64), cache)


def test_a_publish_whose_source_vanishes_leaves_nothing_that_loads(local, source, cache, monkeypatch):
    put = local._fs.put_file

    def vanish(path: str, target: str) -> None:
        if path.endswith("model.safetensors"):
            Path(path).unlink()
        put(path, target)

    monkeypatch.setattr(local._fs, "put_file", vanish)
    with pytest.raises(StorageError, match=r"cannot publish to storage .*model\.safetensors"):
        local.publish(1, source, manifest())
    with pytest.raises(CorruptVersion, match="never published whole"):
        local.fetch(version(1, "0" * 64), cache)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from baton.artifacts.storage import Storage
from tests.artifacts.test_storage import manifest
storage = Storage({storage!r})
step = getattr(storage._fs, {step!r})
def die(*arguments, **options):
    step(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
storage._fs.{step} = die
storage.publish(1, Path({source!r}), manifest())
"""


@pytest.mark.parametrize("step", ["put_file", "pipe_file"])
def test_a_publisher_killed_half_way_leaves_nothing_that_loads_and_the_next_one_repairs_it(local, source, cache, step):
    root = str(Path(__file__).parents[2])
    code = KILLED.format(root=root, storage=local.url, source=str(source), step=step)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    remains = Path(local.url) / "models" / "m" / "versions" / "1"
    (remains / "left-over").write_text("x")
    with pytest.raises(CorruptVersion, match="never published whole"):
        local.fetch(version(1, "0" * 64), cache)
    _, sha256 = local.publish(1, source, manifest())
    directory, _ = local.fetch(version(1, sha256), cache)
    assert content_of(directory) == FILES


def test_the_newest_number_is_that_of_the_greatest_whole_version(storage, source):
    assert storage.newest("m") == 0
    for number in (2, 10, 9):
        storage.publish(number, source, manifest())
    storage.publish(11, source, manifest().model_copy(update={"model": "other"}))
    assert (storage.newest("m"), storage.newest("other"), storage.newest("nobody")) == (10, 11, 0)


def test_a_version_that_was_never_published_whole_does_not_count_as_the_newest(local, source):
    local.publish(1, source, manifest())
    (Path(local.url) / "models" / "m" / "versions" / "7").mkdir()
    assert local.newest("m") == 1


def test_a_published_version_is_never_overwritten(local, published, source, cache):
    (source / "config.json").unlink()
    with pytest.raises(StorageError, match="already holds a published version"):
        local.publish(3, source, manifest())
    directory, _ = local.fetch(published, cache)
    assert "config.json" in content_of(directory)


def test_what_a_killed_publication_left_is_replaced_whole(local, published, source, cache):
    directory, _ = local.fetch(published, cache)
    (directory / "baton.json").unlink()
    (source / "config.json").unlink()
    (source / "new.txt").write_text("new")
    _, sha256 = local.publish(3, source, manifest())
    directory, _ = local.fetch(version(3, sha256), cache)
    assert set(content_of(directory)) == {"model.safetensors", "nested/deep/vocab.txt", "new.txt"}


def test_a_manifest_in_the_source_is_replaced_not_published(local, source, cache):
    (source / "baton.json").write_text("of an older version")
    _, sha256 = local.publish(1, source, manifest())
    _, read = local.fetch(version(1, sha256), cache)
    assert "baton.json" not in read.files


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (alter, "was altered: its SHA-256 is not the manifest's; the version will not be loaded"),
        (truncate, "has 100 bytes, the manifest says 10240; the version will not be loaded"),
        (Path.unlink, "is missing; the version is incomplete and will not be loaded"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(local, published, cache, damage: Callable[[Path], None], reason):
    damage(Path(published.uri) / "model.safetensors")
    with pytest.raises(CorruptVersion, match=f"model.safetensors {reason}"):
        local.fetch(published, cache)


def test_an_altered_manifest_is_named(local, published, cache):
    path = Path(published.uri) / "baton.json"
    path.write_text(path.read_text().replace('"a"', '"z"'))
    with pytest.raises(CorruptVersion, match=r"m v3: .*baton.json is not the one that was registered"):
        local.fetch(published, cache)


def test_a_removed_manifest_says_that_the_version_is_not_whole(local, published, cache):
    (Path(published.uri) / "baton.json").unlink()
    with pytest.raises(CorruptVersion, match=r"m v3: .* has no baton.json; it was never published whole"):
        local.fetch(published, cache)


@pytest.mark.parametrize("content", [b"not json", b"{}", b"\xff"])
def test_a_registered_manifest_that_is_none_is_corrupt(content):
    with pytest.raises(CorruptVersion, match=r"somewhere/baton.json is not a valid manifest: "):
        Manifest.from_bytes(content, "somewhere")


def test_a_manifest_survives_its_bytes():
    complete = manifest().model_copy(update={"files": {"x": FileEntry(size=1, sha256="0" * 64)}})
    assert Manifest.from_bytes(complete.to_bytes(), "here") == complete
    assert Manifest.from_bytes(complete.to_bytes(), "here").to_bytes() == complete.to_bytes()


# --- remote storage ------------------------------------------------------------------------------------------------------


def forge(storage: Storage, name: str, content: bytes) -> ModelVersion:
    """A registered version whose manifest names ``name``."""
    entry = FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    forged = manifest().model_copy(update={"files": {name: entry}}).to_bytes()
    target = f"{storage._root}/models/m/versions/1"
    storage._fs.makedirs(target, exist_ok=True)
    storage._fs.pipe_file(f"{target}/baton.json", forged)
    return version(1, hashlib.sha256(forged).hexdigest())


def test_a_remote_version_is_downloaded_into_the_cache(remote, source, cache):
    uri, sha256 = remote.publish(1, source, manifest())
    directory, read = remote.fetch(version(1, sha256), cache)
    assert uri.startswith(remote.url.partition("://")[0] + "://")
    assert directory.parent == cache
    assert content_of(directory) == FILES
    assert read.labels == ("a", "b")


def test_a_remote_version_is_downloaded_only_once(remote, source, cache, monkeypatch):
    _, sha256 = remote.publish(1, source, manifest())
    first, _ = remote.fetch(version(1, sha256), cache)
    monkeypatch.setattr(remote._fs, "get_file", lambda *_: pytest.fail("downloaded again"))
    second, _ = remote.fetch(version(1, sha256), cache)
    assert second == first
    assert list(cache.iterdir()) == [first]


def test_of_several_that_ask_at_once_one_downloads_and_the_others_wait_for_it(remote, source, cache, monkeypatch):
    _, sha256 = remote.publish(1, source, manifest())
    get, lock, fetched, asked = remote._fs.get_file, fcntl.flock, [], threading.Barrier(4)

    def asking(descriptor: int, operation: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # of those that ask again
            asked.wait(60)
        asked.abort()
        lock(descriptor, operation)

    def counting(path: str, target: str) -> None:
        fetched.append(path)
        get(path, target)

    monkeypatch.setattr(remote._fs, "get_file", counting)
    monkeypatch.setattr(fcntl, "flock", asking)
    with ThreadPoolExecutor(4) as threads:
        directories = {found for found, _ in threads.map(lambda _: remote.fetch(version(1, sha256), cache), range(4))}
    assert len(fetched) == len(FILES)
    assert [content_of(directory) for directory in directories] == [FILES]
    assert list(cache.iterdir()) == list(directories)


def test_the_download_of_a_process_that_was_killed_is_taken_over(remote, source, cache):
    _, sha256 = remote.publish(1, source, manifest())
    left = cache / f"partial-{name_of('m', 1, sha256)}"
    (left / "engine").mkdir(parents=True)
    (left / "config.json").write_bytes(b"half")
    directory, _ = remote.fetch(version(1, sha256), cache)
    assert content_of(directory) == FILES
    assert list(cache.iterdir()) == [directory]


def test_a_damaged_copy_in_the_cache_is_downloaded_again(remote, source, cache):
    _, sha256 = remote.publish(1, source, manifest())
    directory, _ = remote.fetch(version(1, sha256), cache)
    alter(directory / "model.safetensors")
    directory, _ = remote.fetch(version(1, sha256), cache)
    assert content_of(directory) == FILES


def test_a_damaged_remote_file_is_named_and_nothing_stays_in_the_cache(remote, source, cache):
    _, sha256 = remote.publish(1, source, manifest())
    remote._fs.pipe_file(f"{remote._root}/models/m/versions/1/model.safetensors", b"x" * 10240)
    with pytest.raises(CorruptVersion, match=r"model\.safetensors was altered"):
        remote.fetch(version(1, sha256), cache)
    assert list(cache.iterdir()) == []


def test_a_missing_remote_file_is_named_and_nothing_stays_in_the_cache(remote, source, cache):
    _, sha256 = remote.publish(1, source, manifest())
    remote._fs.rm_file(f"{remote._root}/models/m/versions/1/config.json")
    with pytest.raises(CorruptVersion, match=r"config\.json is missing; the version is incomplete"):
        remote.fetch(version(1, sha256), cache)
    assert list(cache.iterdir()) == []


def test_a_remote_version_without_manifest_was_never_published_whole(remote, source, cache):
    _, sha256 = remote.publish(1, source, manifest())
    remote._fs.rm_file(f"{remote._root}/models/m/versions/1/baton.json")
    with pytest.raises(CorruptVersion, match="never published whole"):
        remote.fetch(version(1, sha256), cache)


def test_a_manifest_cannot_name_a_file_outside_its_directory(storage, tmp_path, cache):
    content = b"outside"
    forged = forge(storage, "../../outside.txt", content)
    storage._fs.pipe_file(f"{storage._root}/models/m/versions/1/../../outside.txt", content)
    with pytest.raises(CorruptVersion, match=r"the manifest names '\.\./\.\./outside\.txt', outside the version's directory"):
        storage.fetch(forged, cache)
    assert not (tmp_path / "outside.txt").exists()


# --- data sets and runs --------------------------------------------------------------------------------------------------


def test_a_data_set_is_read_as_it_was_written(storage):
    storage.write_dataset("models/m/datasets/abc", {"train.jsonl": b"1\n"}, {"dataset.json": b"{}"})
    assert storage.read_dataset("models/m/datasets/abc", "train.jsonl") == b"1\n"
    assert storage.read_dataset("models/m/datasets/abc", "dataset.json") == b"{}"


def test_of_a_data_set_that_is_there_only_the_account_is_written_again(storage):
    for content in (b"first", b"second"):
        storage.write_dataset("models/m/datasets/abc", {"train.jsonl": content}, {"dataset.json": content})
    assert storage.read_dataset("models/m/datasets/abc", "train.jsonl") == b"first"
    assert storage.read_dataset("models/m/datasets/abc", "dataset.json") == b"second"


def test_a_data_set_that_was_not_finished_is_written_again(local):
    local.write_dataset("d", {"train.jsonl": b"half"}, {"quarantine.jsonl": b""})
    local.write_dataset("d", {"train.jsonl": b"whole"}, {"quarantine.jsonl": b"", "dataset.json": b"{}"})
    assert local.read_dataset("d", "train.jsonl") == b"whole"


def test_a_data_set_is_marked_complete_last(local, monkeypatch):
    moved: list[str] = []
    move = local._fs.mv
    monkeypatch.setattr(local._fs, "mv", lambda old, new: (moved.append(new.rpartition("/")[2]), move(old, new)))
    local.write_dataset("d", {"holdout.jsonl": b"", "train.jsonl": b""}, {"quarantine.jsonl": b"", "dataset.json": b"{}"})
    assert moved[-1] == "dataset.json"


def test_a_missing_data_set_is_a_storage_error(local):
    with pytest.raises(StorageError, match="cannot read from storage"):
        local.read_dataset("models/m/datasets/nope", "train.jsonl")


def test_removing_a_run_removes_its_checkpoints_and_no_others(local):
    for run in ("one", "two"):
        (Path(local.runs_path) / run).mkdir(parents=True)
        (Path(local.runs_path) / run / "checkpoint").write_text("x")
    assert local.run_ids() == ["one", "two"]
    local.remove_run("one")
    local.remove_run("never-there")
    assert local.run_ids() == ["two"]
    assert [path.name for path in Path(local.runs_path).iterdir()] == ["two"]


def test_ray_writes_checkpoints_through_the_driver_that_everything_else_uses(remote):
    through = filesystem_of(remote.url)
    through.create_dir(f"{remote.runs_path}/run-1")
    with through.open_output_stream(f"{remote.runs_path}/run-1/checkpoint") as stream:
        stream.write(b"weights")
    assert remote.filesystem.cat_file(f"{remote._root}/runs/run-1/checkpoint") == b"weights"
    remote.remove_run("run-1")
    assert through.get_file_info(f"{remote.runs_path}/run-1/checkpoint").type == pyarrow.fs.FileType.NotFound


def test_checkpoints_on_local_storage_need_no_driver(local):
    assert local.runs_path == f"{local.url}/runs"
    assert filesystem_of(local.url) is None


# --- storage that does not work ------------------------------------------------------------------------------------------


def test_writable_storage_passes_its_check_and_keeps_no_trace_of_it(storage):
    storage.check_writable()
    assert storage._fs.find(storage._root) == []


@pytest.fixture
def blocked(tmp_path: Path) -> Storage:
    """Storage below a regular file: not writable, for root neither."""
    (tmp_path / "file").write_text("x")
    return Storage(str(tmp_path / "file" / "x"))


def test_storage_that_cannot_be_written_says_so(blocked, source):
    for doing in (
        blocked.check_writable,
        lambda: blocked.publish(1, source, manifest()),
        lambda: blocked.write_dataset("d", {}, {"dataset.json": b"{}"}),
    ):
        with pytest.raises(
            StorageError, match=rf"cannot (write|publish) to storage {blocked.url}: .*(Not a directory|File exists)"
        ):
            doing()


def test_storage_that_cannot_be_read_does_not_call_a_version_corrupt(blocked, cache):
    with pytest.raises(StorageError, match="cannot read from storage"):
        blocked.fetch(version(1, "0" * 64), cache)


@pytest.mark.parametrize("url", ["nosuch://bucket/path", "nosuch+thing://x"])
def test_an_unknown_scheme_is_named(url):
    with pytest.raises(StorageError, match=rf"storage '{url.replace('+', '[+]')}': cannot open a nosuch\S* file system: "):
        Storage(url)


def test_file_urls_are_local_storage(tmp_path):
    assert Storage(f"file://{tmp_path}").local
    assert Storage(f"file://{tmp_path}").runs_path == f"{tmp_path}/runs"


def test_a_scheme_whose_package_is_missing_names_the_package_and_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "baton.artifacts.s3", None)
    monkeypatch.delattr("baton.artifacts.s3", raising=False)
    with pytest.raises(StorageError, match=r"cannot open a s3 file system: .*; `pip install 's3fs\S*' '\S+'` installs the"):
        Storage("s3://bucket/baton")


# --- S3 ------------------------------------------------------------------------------------------------------------------


def test_what_one_process_publishes_another_sees_at_once_though_it_has_looked_before(bucket, source, cache):
    ours = Storage(bucket.url())
    ours.write_dataset("models/m/datasets/abc", {}, {"dataset.json": b"{}"})
    assert not ours.filesystem.exists(f"{ours.runs_path}/nothing")
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from baton.artifacts.storage import Storage
from tests.artifacts.test_storage import manifest
print(Storage({ours.url!r}).publish(1, Path({str(source)!r}), manifest())[1])
"""
    with pytest.raises(CorruptVersion, match="never published whole"):
        ours.fetch(version(1, "0" * 64), cache)
    sha256 = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert content_of(ours.fetch(version(1, sha256), cache)[0]) == FILES


def test_checkpoints_that_another_process_wrote_after_we_looked_are_found_and_removed(bucket):
    import s3fs

    storage = Storage(bucket.url())
    other = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    other.pipe_file(f"{storage.runs_path}/run-1/first", b"1")
    assert len(storage.filesystem.ls(storage.runs_path)) == 1
    assert storage.run_ids() == ["run-1"]
    other.pipe_file(f"{storage.runs_path}/run-2/second", b"2")
    storage.remove_run("run-2")
    assert other.find(storage.runs_path) == [f"{storage.runs_path}/run-1/first"]


def test_a_publication_on_an_object_store_leaves_no_file_under_another_name(bucket, source):
    storage = Storage(bucket.url())
    storage.publish(1, source, manifest())
    names = {path.partition("/versions/1/")[2] for path in storage.filesystem.find(storage._root)}
    assert names == {*FILES, "baton.json"}


def test_a_bucket_that_does_not_exist_is_told_and_not_made(bucket):
    with pytest.raises(StorageError, match=r"cannot write to storage s3://nosuchbucket/x: .*bucket does not exist"):
        Storage("s3://nosuchbucket/x").check_writable()
    assert not Storage(bucket.url()).filesystem.exists("nosuchbucket")


def test_an_object_store_that_refuses_connections_is_a_storage_error(bucket, source, cache, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    forget_connections()
    storage = Storage("s3://baton/x")
    for call in (
        storage.check_writable,
        lambda: storage.publish(1, source, manifest()),
        lambda: storage.fetch(version(1, "0" * 64), cache),
        lambda: storage.read_dataset("models/m/datasets/x", "dataset.json"),
        lambda: storage.remove_run("run-1"),
    ):
        with pytest.raises(StorageError, match=r"storage s3://baton/x: Could not connect to the endpoint URL"):
            call()


def test_an_object_store_without_credentials_is_a_storage_error(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    forget_connections()
    with pytest.raises(StorageError, match=r"cannot write to storage s3://baton/x: .*redentials"):
        Storage("s3://baton/x").check_writable()


def test_an_object_store_that_is_silent_is_a_storage_error_and_answers_again_afterwards(bucket, monkeypatch):
    monkeypatch.setattr("baton.artifacts.s3.READ_SECONDS", 1)
    storage = Storage(bucket.url())
    storage.check_writable()
    bucket.freeze()
    try:
        for call in (storage.check_writable, lambda: storage.read_dataset("models/m/datasets/x", "dataset.json")):
            with pytest.raises(StorageError, match=r"cannot (write to|read from) storage .*: Read timeout on endpoint"):
                call()
    finally:
        bucket.thaw()
    storage.check_writable()


# --- power cuts ----------------------------------------------------------------------------------------------------------


def test_every_published_file_is_synced_before_the_manifest_and_the_manifest_before_publish_returns(tmp_path, monkeypatch):
    """The registry's pointer is on the disk at once; the files that it names were not (review M10)."""
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", note)
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    for name in ("config.json", "model.safetensors"):
        (directory / name).write_bytes(name.encode())
    Storage(str(tmp_path / "storage")).publish(1, directory, manifest())
    assert synced == ["config.json", "model.safetensors", "baton.json.partial", "1"]
