"""``baton.json``: what a version is, next to its files. Written last, so that its presence means that the version is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from baton.errors import CorruptVersion

NAME = "baton.json"


class FileEntry(BaseModel):
    """One file of a version."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str


class Probe(BaseModel):
    """An input with the answer that the version gave when it was evaluated; a loaded copy must give it again."""

    model_config = ConfigDict(frozen=True)

    input: dict[str, Any]
    output: dict[str, Any]


class Manifest(BaseModel):
    """The content of ``baton.json``."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    model: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    stride: int | None = None
    long_text: Literal["truncate", "windows"] | None = None
    calibration: Mapping[str, float] = {}
    base_model: str
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    code_version: str
    probes: tuple[Probe, ...] = ()
    files: Mapping[str, FileEntry] = {}

    def to_bytes(self) -> bytes:
        """Canonical bytes, the ones that ``manifest_sha256`` pins."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Raises ``CorruptVersion`` naming ``where`` when the content is no manifest."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise CorruptVersion(f"{where}/{NAME} is not a valid manifest: {error.errors()[0]['msg']}") from error


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks (the hashing releases the GIL)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entries(directory: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file below ``directory`` except the manifest itself, by relative POSIX path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != NAME)
    return {
        path.relative_to(directory).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_of(path)) for path in files
    }


def check_names(directory: Path, manifest: Manifest) -> None:
    """Raise ``CorruptVersion`` if ``manifest`` names a file outside ``directory``. To be called before writing there."""
    for name in manifest.files:
        if not (directory / name).resolve().is_relative_to(directory.resolve()):
            raise CorruptVersion(f"{directory}: the manifest names {name!r}, outside the version's directory")


def verify(directory: Path, manifest: Manifest) -> None:
    """Raise ``CorruptVersion`` on the first file of ``manifest`` that is missing or differs."""
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
