"""The artifact storage on any fsspec file system. A version is published completely or not at all, and verified at every read.

Layout: ``models/NAME/versions/N/`` (a Hugging Face directory and ``baton.json``), ``models/NAME/datasets/HASH/``,
``runs/`` (checkpoints of Ray Train). Knows nothing of the registry except the record of a version.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from baton.artifacts import manifest as manifests
from baton.artifacts.manifest import Manifest
from baton.artifacts.version_cache import PARTIAL, claimed, name_of
from baton.errors import CorruptVersion, StorageError
from baton.installation import install_command
from baton.store.records import ModelVersion

VERSIONS, ANSWERS = "versions", "reports/answers"
"""Folders of a model whose paths follow from its name."""

LOCAL_PROTOCOLS = ("file", "local")

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes of object stores. They write an object completely or not at all, and have no directories: creating a directory would
create the bucket."""

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extra of this package that installs the driver, by scheme."""

DRIVERS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure")
"""Packages whose exceptions report an error of the storage although they are not an `OSError`."""


class Storage:
    """The files below one root URL: versions, frozen data sets and checkpoints.

    Credentials and the endpoint come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …), never from the URL.
    """

    def __init__(self, url: str, *, patient: bool = False) -> None:
        """Open ``url``. ``patient``: wait one or two minutes for a storage that is down before raising an error.

        Raises:
            StorageError: fsspec cannot open the URL.
        """
        self.url = url
        scheme = urlsplit(url).scheme
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url, **_options(scheme, patient=patient))
        except (ValueError, ImportError, OSError) as error:
            hint = f"; `{install_command(EXTRAS[scheme])}` installs the driver" if scheme in EXTRAS else ""
            raise StorageError(f"storage {url!r}: cannot open a {scheme or 'local'} file system: {error}{hint}") from error
        protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        self.local = protocol in LOCAL_PROTOCOLS
        self._objects = scheme in OBJECT_STORES
        if scheme in ("s3", "s3a"):
            self._fs.retries = 1  # botocore already retries; s3fs must not retry again

    def check_writable(self) -> None:
        """Write and delete a small file. Raises ``StorageError`` with the storage's own message."""
        name = f"{self._root}/.write-test-{uuid.uuid4().hex}"
        with self._as_storage_error("write to"):
            self._make_directory(self._root)
            self._fs.pipe_file(name, b"baton")
            self._fs.rm_file(name)

    @property
    def directory(self) -> Path:
        """The root of a `local` storage."""
        return Path(self._root)

    @property
    def runs_path(self) -> str:
        """Path on `filesystem` where Ray Train keeps the checkpoints of runs."""
        return f"{self._root}/runs"

    @property
    def filesystem(self) -> Any:
        """The fsspec file system of this storage, with its endpoint, credentials and retries."""
        return self._fs

    def run_ids(self) -> list[str]:
        """Return the ids of runs that have checkpoints."""
        with self._as_storage_error("list"):
            if not self._fs.exists(self.runs_path):
                return []
            return sorted(path.rstrip("/").rpartition("/")[2] for path in self._fs.ls(self.runs_path, detail=False))

    def remove_run(self, run_id: str) -> None:
        """Delete the checkpoints of a finished run, if it has any."""
        with self._as_storage_error("delete from"):
            path = f"{self._root}/runs/{run_id}"
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)

    def write_run_files(self, path: str, directory: Path) -> None:
        """Copy the files in ``directory`` to ``path``, a directory below `runs_path`."""
        target = f"{self._root}/runs/{path}"
        with self._as_storage_error("write to"):
            self._make_directory(target)
            for file in directory.iterdir():
                self._fs.put_file(str(file), f"{target}/{file.name}")

    def fetch_run(self, path: str, cache: Path) -> Path:
        """Return a local directory with the content of ``path``, a directory below `runs_path`.

        On a remote storage it is downloaded into ``cache``.
        """
        source = f"{self._root}/runs/{path}"
        if self.local:
            return Path(source)
        with self._as_storage_error("read from"):
            self._fs.get(f"{source}/", f"{cache}/", recursive=True)
        return cache

    def copy_files(self, patterns: Sequence[str], directory: Path) -> None:
        """Copy the files directly below the root whose names match one of the ``patterns`` to ``directory``."""
        with self._as_storage_error("read from"):
            for path in self._fs.ls(self._root, detail=False) if self._fs.exists(self._root) else ():
                name = path.rstrip("/").rpartition("/")[2]
                if any(fnmatchcase(name, pattern) for pattern in patterns):
                    self._fs.get_file(path, str(directory / name))

    # --- versions ----------------------------------------------------------------------------------------------------

    def newest(self, model: str) -> int:
        """Return the greatest number of a complete version, 0 if there is none. Raises ``StorageError``."""
        with self._as_storage_error("read from"):
            files = self._fs.find(f"{self._root}/models/{model}/versions")
        parts = (path.split("/") for path in files)
        return max(
            (int(number) for *_, parent, number, name in parts if (parent, name) == ("versions", manifests.NAME)), default=0
        )

    def publish(self, number: int, directory: Path, manifest: Manifest) -> tuple[str, str]:
        """Copy ``directory`` to the path of version ``number``, and last the manifest with the SHA-256 of every file.

        If the process is killed half-way, a directory without a manifest remains. No reader loads it, and the next call
        replaces it.

        Returns: the version's URL, and the SHA-256 of its manifest.

        Raises:
            StorageError: a complete version with this number exists (versions never change), or the storage fails.
        """
        target = f"{self._root}/models/{manifest.model}/versions/{number}"
        complete = manifest.model_copy(update={"files": manifests.entries(directory)})
        content = complete.to_bytes()
        with self._as_storage_error("publish to"):
            if self._fs.exists(f"{target}/{manifests.NAME}"):
                raise StorageError(f"{target} already holds a published version; does this storage belong to another database?")
            if self._fs.exists(target):
                self._fs.rm(target, recursive=True)
            for name in complete.files:
                self._make_directory(f"{target}/{name}".rpartition("/")[0])
                self._fs.put_file(str(directory / name), f"{target}/{name}")
                self._sync(f"{target}/{name}")
            self._write_whole(f"{target}/{manifests.NAME}", content)
        url = target if self.local else self._fs.unstrip_protocol(target)
        return url, hashlib.sha256(content).hexdigest()

    def fetch(self, version: ModelVersion, cache: Path) -> tuple[Path, Manifest]:
        """Return a local directory with exactly the published bytes of ``version``, and its manifest.

        On a local storage it is the version's own directory; otherwise the files are downloaded once into ``cache``.

        Raises:
            CorruptVersion: a file is missing or was changed; the message names the file.
            StorageError: the storage does not respond.
        """
        return self.fetch_pinned(version.model, version.number, version.manifest_sha256, cache)

    def fetch_pinned(self, model: str, number: int, manifest_sha256: str, cache: Path) -> tuple[Path, Manifest]:
        """Fetch a version like `fetch`, by its number and the SHA-256 of its manifest."""
        source = self._version(model, number)
        manifest = self._manifest(model, number, manifest_sha256)
        if not self.local:
            return self._download(source, manifest, cache / name_of(model, number, manifest_sha256)), manifest
        manifests.verify(Path(source), manifest)
        return Path(source), manifest

    def manifest(self, version: ModelVersion) -> Manifest:
        """Return the manifest of a version, without its files. Raises as `fetch`."""
        return self._manifest(version.model, version.number, version.manifest_sha256)

    def task_of(self, version: ModelVersion) -> str:
        """Return the name of a version's task. Raises as `fetch` if only its manifest knows: Baton 0.1 published it."""
        return str(version.lineage.get("task") or self.manifest(version).task)

    def _version(self, model: str, number: int) -> str:
        return f"{self._root}/models/{model}/versions/{number}"

    def _manifest(self, model: str, number: int, sha256: str) -> Manifest:
        where, source = f"{model} v{number}", self._version(model, number)
        with self._as_storage_error("read from"):
            try:
                content: bytes = self._fs.cat_file(f"{source}/{manifests.NAME}")
            except FileNotFoundError:
                if not self._fs.exists(self._root):
                    raise StorageError(
                        f"storage {self.url} is not there; is its volume mounted, does its bucket exist?"
                    ) from None
                raise CorruptVersion(f"{where}: {source} has no {manifests.NAME}; it was never published whole") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise CorruptVersion(f"{where}: {source}/{manifests.NAME} is not the one that was registered")
        return Manifest.from_bytes(content, source)

    def _download(self, source: str, manifest: Manifest, final: Path) -> Path:
        """Return ``final``, with the files of ``manifest``. Of several processes that ask at once, one downloads them."""
        if _whole(final, manifest):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with claimed(final.parent / f"{PARTIAL}{final.name}") as partial:
            if _whole(final, manifest):  # another process has downloaded it meanwhile
                return final
            shutil.rmtree(final, ignore_errors=True)  # a damaged copy
            manifests.check_names(partial, manifest)
            with self._as_storage_error("read from"):
                for name in manifest.files:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    try:
                        self._fs.get_file(f"{source}/{name}", str(partial / name))
                    except FileNotFoundError:
                        raise CorruptVersion(f"{source}/{name} is missing; the version is incomplete") from None
            manifests.verify(partial, manifest)
            partial.rename(final)
        return final

    def copy_versions(self, old: str, new: str) -> None:
        """Copy the versions of model ``old``, and the answers kept for its reports, to where those of ``new`` are.

        On a local disk the copies are hard links, which take no space. What is there already is replaced.
        """
        with self._as_storage_error("copy in"):
            for folder in (VERSIONS, ANSWERS):
                source, target = (f"{self._root}/models/{name}/{folder}" for name in (old, new))
                for path in self._fs.find(source):
                    copy = f"{target}{path.removeprefix(source)}"
                    self._make_directory(copy.rpartition("/")[0])
                    if self.local:
                        Path(copy).unlink(missing_ok=True)
                        os.link(path, copy)
                    else:
                        self._fs.cp_file(path, copy)

    def remove_versions(self, model: str) -> None:
        """Delete the versions of a model. Its data sets and reports stay: what was recorded of them names their place."""
        with self._as_storage_error("delete from"):
            path = f"{self._root}/models/{model}/{VERSIONS}"
            if self._fs.exists(path):
                self._fs.rm(path, recursive=True)

    # --- data sets ---------------------------------------------------------------------------------------------------

    def write_dataset(self, path: str, splits: Mapping[str, bytes], account: Mapping[str, bytes]) -> None:
        """Store the files of a frozen data set below ``path``.

        ``splits`` never change: they are written only if they are not complete yet. ``account`` (what happened to every row) is
        written after them, and written again on each call, because other rows may lead to the same splits.
        """
        target = f"{self._root}/{path}"
        with self._as_storage_error("write to"):
            self._make_directory(target)
            whole = all(self._fs.exists(f"{target}/{name}") for name in account)
            for name, content in [*(() if whole else splits.items()), *account.items()]:
                self._write_whole(f"{target}/{name}", content)

    def read_dataset(self, path: str, name: str, *, missing: bytes | None = None) -> bytes:
        """Read one file of a frozen data set. ``missing``: what to return if it is not there; None: that is an error."""
        return self._read(f"{path}/{name}", missing)

    # --- reports -----------------------------------------------------------------------------------------------------

    def write_report(self, path: str, content: bytes) -> None:
        """Write a file below ``path`` that no reader ever sees incomplete, in place of an earlier one."""
        target = f"{self._root}/{path}"
        with self._as_storage_error("write to"):
            self._make_directory(target.rpartition("/")[0])
            self._write_whole(target, content)

    def read_report(self, path: str) -> bytes | None:
        """Return what `write_report` has written, or None."""
        return self._read(path, b"") or None

    def _read(self, path: str, missing: bytes | None) -> bytes:
        with self._as_storage_error("read from"):
            try:
                content: bytes = self._fs.cat_file(f"{self._root}/{path}")
            except FileNotFoundError:
                if missing is None:
                    raise
                content = missing
            return content

    # --- differences between storages --------------------------------------------------------------------------------

    def _make_directory(self, path: str) -> None:
        if not self._objects:
            self._fs.makedirs(path, exist_ok=True)

    def _write_whole(self, path: str, content: bytes) -> None:
        """Write a file that no reader ever sees incomplete."""
        if self._objects:
            self._fs.pipe_file(path, content)
        else:
            self._fs.pipe_file(f"{path}.partial", content)
            self._sync(f"{path}.partial")
            self._fs.mv(f"{path}.partial", path)
            self._sync(path.rpartition("/")[0])

    def _sync(self, path: str) -> None:
        """Wait until a local file or directory is on the disk: the registry's pointer to it soon is, too."""
        if self.local:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def _as_storage_error(self, doing: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and not _of_driver(error):
                raise
            said = str(error) or type(error).__name__
            raise StorageError(f"cannot {doing} storage {self.url}: {said}") from error


def _of_driver(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0] in DRIVERS for kind in type(error).__mro__)


def _options(scheme: str, *, patient: bool) -> dict[str, Any]:
    """Return the arguments of the driver for ``scheme``."""
    if scheme not in ("s3", "s3a"):
        return {}
    from baton.artifacts import s3

    return s3.options(patient=patient)


def _whole(directory: Path, manifest: Manifest) -> bool:
    """Return whether ``directory`` is a whole copy of a version, and mark it as used."""
    if not directory.is_dir():
        return False
    try:
        manifests.verify(directory, manifest)
    except CorruptVersion:
        return False
    os.utime(directory)  # it is in use (`VersionCache.tidy`)
    return True
