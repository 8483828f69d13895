"""``baton.json``, the manifest next to the files of a version. It is written last: where it exists, the version is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from baton.engines.base import Library, Precision
from baton.errors import CorruptVersion
from baton.generation import Generation

NAME = "baton.json"


class FileEntry(BaseModel):
    """Size and checksum of one file of a version."""

    model_config = ConfigDict(frozen=True)

    size: int
    """Bytes."""
    sha256: str
    """Hex digest."""


class Probe(BaseModel):
    """An input and the answer of the version when it was evaluated. A loaded copy must give the same answer."""

    model_config = ConfigDict(frozen=True)

    input: dict[str, Any]
    output: dict[str, Any]


class EngineChoice(BaseModel):
    """The engine that a version was judged with, and that serves it unless the settings name another."""

    model_config = ConfigDict(frozen=True)

    library: Library = "torch"
    precision: Precision = "auto"
    measured: Mapping[str, Mapping[str, float]] = {}
    """For each engine that was tried, by its description: the main metric on the holdout, and ``latency_ms``."""
    reason: str = ""
    """Why a faster engine was not chosen; empty if the fastest was."""


class Manifest(BaseModel):
    """The content of ``baton.json``."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    model: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    """Maximum number of tokens in a window."""
    stride: int | None = None
    """Tokens that neighbouring windows share; None: the task's default."""
    long_text: Literal["truncate", "windows"] | None = None
    calibration: Mapping[str, float] = {}
    """Values that the task learned from validation rows, for example a threshold for each label."""
    temperature: float = 1.0
    """Divides the logits before they become scores, so that a score says how often such an answer is right."""
    generation: Generation | None = None
    """How answers are written, for models that write them; None: the defaults."""
    base_model: str
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    code_version: str
    engine: EngineChoice = EngineChoice()
    probes: tuple[Probe, ...] = ()
    files: Mapping[str, FileEntry] = {}
    """Every other file of the version, by its POSIX path relative to the version's directory."""

    @property
    def megabytes(self) -> float:
        """Size of all files together, in 10^6 bytes."""
        return sum(entry.size for entry in self.files.values()) / 1e6

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON, the exact bytes that ``manifest_sha256`` is the hash of."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Parse a manifest. Raises ``CorruptVersion``, which names ``where``, if the content is not a manifest."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise CorruptVersion(f"{where}/{NAME} is not a valid manifest: {error.errors()[0]['msg']}") from error


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file. It is read in chunks, and hashing releases the GIL."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entries(directory: Path) -> dict[str, FileEntry]:
    """Return size and SHA-256 of every file below ``directory`` except the manifest, by relative POSIX path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != NAME)
    return {
        path.relative_to(directory).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_of(path)) for path in files
    }


def check_names(directory: Path, manifest: Manifest) -> None:
    """Raise ``CorruptVersion`` if ``manifest`` names a file outside ``directory``. Call this before writing its files."""
    for name in manifest.files:
        if not (directory / name).resolve().is_relative_to(directory.resolve()):
            raise CorruptVersion(f"{directory}: the manifest names {name!r}, outside the version's directory")


def verify(directory: Path, manifest: Manifest) -> None:
    """Raise ``CorruptVersion`` if a file of ``manifest`` is missing or differs; the error names the first such file."""
    check_names(directory, manifest)
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise CorruptVersion(f"{path} is missing; the version is incomplete and will not be loaded")
        size = path.stat().st_size
        if size != entry.size:
            raise CorruptVersion(f"{path} has {size} bytes, the manifest says {entry.size}; the version will not be loaded")
        if sha256_of(path) != entry.sha256:
            raise CorruptVersion(f"{path} was altered: its SHA-256 is not the manifest's; the version will not be loaded")
