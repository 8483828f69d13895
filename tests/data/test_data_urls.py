"""Training data at a URL: read like a file, and complained about by the URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from baton.errors import DataError
from baton.tasks.classification import Classification
from training.data import sources

ROWS = [{"text": "a parcel", "label": "shipping"}, {"text": "an invoice", "label": "billing"}]


@pytest.fixture
def bucket() -> Iterator[str]:
    """A place in the memory of this process, by its URL."""
    files = fsspec.filesystem("memory")
    files.makedirs("/bucket", exist_ok=True)
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def put(url: str, content: str) -> str:
    with fsspec.open(url, "w") as file:
        file.write(content)
    return url


def test_a_file_at_a_url_is_read_like_one_on_disk(bucket: str, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "train.jsonl").write_text(lines)
    local = list(sources.read(str(tmp_path / "train.jsonl"), "train"))
    url = put(f"{bucket}/train.jsonl", lines)
    remote = list(sources.read(url, "train"))
    assert [row.values for row in remote] == [row.values for row in local] == ROWS
    assert [row.where for row in remote] == [f"{url} line 1", f"{url} line 2"]
    assert next(sources.read((tmp_path / "train.jsonl").as_uri(), "train")).values == ROWS[0]


def test_mistakes_are_told_by_the_url(bucket: str) -> None:
    url = put(f"{bucket}/train.jsonl", json.dumps(ROWS[0]) + "\n{broken\n")
    with pytest.raises(DataError, match=f"^{url} line 2: not valid JSON"):
        list(sources.read(url, "train"))
    url = put(f"{bucket}/rows.csv", "text,label\nhello,\n")
    with pytest.raises(DataError, match=f"{url} line 2"):
        sources.parse(Classification, {}, sources.read(url, "train"), url)


@pytest.mark.parametrize(
    ("name", "said"),
    [("missing.jsonl", "cannot be read: FileNotFoundError"), ("train.doc", "unknown file type '.doc'")],
)
def test_a_url_without_usable_data_says_why(bucket: str, name: str, said: str) -> None:
    put(f"{bucket}/train.doc", "words")
    with pytest.raises(DataError, match=f"{bucket}/{name}: {said}"):
        list(sources.read(f"{bucket}/{name}", "train"))


def test_an_unknown_protocol_is_named(bucket: str) -> None:
    with pytest.raises(DataError, match=r"carrier-pigeon://coop/train.jsonl: cannot be read: .*carrier-pigeon"):
        list(sources.read("carrier-pigeon://coop/train.jsonl", "train"))
