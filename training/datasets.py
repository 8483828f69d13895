"""Files or `datasets` ids → a frozen, validated, leak-free `DatasetVersion` on storage.

Knows nothing of models or training.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from baton.config import DataSettings
from baton.errors import DataError
from baton.records import DatasetVersion
from baton.storage import Storage
from baton.tasks import AnyTask
from baton.tasks.base import short

SHOWN = 10
"""Mistakes listed in one error; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One raw row and where it stands, for error messages: ``data/train.jsonl line 7``."""

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Validated examples of both sides, with the record of how they came to be."""

    version: DatasetVersion
    train: Sequence[Any]
    holdout: Sequence[Any]


def freeze(model: str, kind: type[AnyTask], data: DataSettings, storage: Storage) -> Dataset:
    """Read, validate, split, take leaks out, and store both sides under their content hash.

    A train row whose normalised text (in question answering: context) also stands in the holdout is dropped and counted, and
    so is a train row that repeats an earlier one. The holdout is never touched.

    Raises:
        DataError: all broken rows by file, line and field; no rows; rows that the task cannot learn from; a holdout label
            unknown in train.
        StorageError: the storage cannot be written.
    """
    rows = parse(kind, data.fields, read(data.train, "train"), data.train)
    if isinstance(data.holdout, str):
        train = rows
        holdout = parse(kind, data.fields, read(data.holdout, "test"), data.holdout)
    else:
        train, holdout = split(kind, rows, data.holdout)
        if not holdout or not train:
            raise DataError(f"{data.train}: {len(rows)} row(s) cannot be split into train and holdout ({data.holdout:.0%})")
    train, leaks, duplicates = _clean(kind, train, holdout)
    if not train:
        raise DataError(f"{data.train}: nothing is left to train on; all {leaks} distinct row(s) also stand in the holdout")
    labels = kind.labels_of(train)
    kind(labels, max_length=8).check(holdout)
    sides = {"train.jsonl": _to_bytes(train), "holdout.jsonl": _to_bytes(holdout)}
    holdout_hash, content_hash = _hashes(sides["train.jsonl"], sides["holdout.jsonl"])
    uri = f"models/{model}/datasets/{content_hash}"
    version = DatasetVersion(
        hash=content_hash,
        holdout_hash=holdout_hash,
        uri=uri,
        labels=labels,
        train_rows=len(train),
        holdout_rows=len(holdout),
        removed_leaks=leaks,
        removed_duplicates=duplicates,
        sources={"train": data.train, "holdout": str(data.holdout)},
    )
    record = json.dumps(asdict(version), indent=2, ensure_ascii=False).encode()
    storage.write_dataset(uri, {**sides, "dataset.json": record})
    return Dataset(version=version, train=train, holdout=holdout)


def load_side(kind: type[AnyTask], storage: Storage, uri: str, side: str) -> list[Any]:
    """The examples of one side (``train`` or ``holdout``) of a frozen data set.

    Raises:
        DataError: a side is not what was frozen.
    """
    sides = {name: storage.read_dataset(uri, f"{name}.jsonl") for name in ("train", "holdout")}
    _, content_hash = _hashes(sides["train"], sides["holdout"])
    if content_hash != uri.rpartition("/")[2]:
        raise DataError(
            f"{uri}: the frozen data set was altered: its content has the hash {content_hash}; restore it, or train anew"
        )
    # bytes: U+2028 and U+0085 end a line of a str, not of a JSONL file
    return [kind.Example.model_validate_json(line) for line in sides[side].splitlines()]


def read(source: str, hub_split: str) -> Iterator[Row]:
    """Raw rows of a .jsonl, .csv or .parquet file, or of a `datasets` id. Raises ``DataError``."""
    path = Path(source)
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix not in readers:
        if path.is_file():
            raise DataError(f"{source}: unknown file type {path.suffix!r}; allowed: .jsonl, .csv, .parquet, or a datasets id")
        return _read_hub(source, hub_split)
    if not path.is_file():
        raise DataError(f"{source}: no such file")
    return readers[path.suffix](path)


def parse(kind: type[AnyTask], columns: Mapping[str, str], rows: Iterable[Row], source: str) -> list[Any]:
    """Rows as the task's examples. Raises ``DataError`` that lists where each broken row stands and why."""
    examples, mistakes = [], []
    for row in rows:
        shape = _shape(kind, columns, row.values)
        missing = [columns.get(field, field) for field in shape if columns.get(field, field) not in row.values]
        if missing:
            mistakes.append(f"{row.where}: {_missing(missing[0], row.values)}")
            continue
        fields = [field for field in (*shape, *kind.optional_fields) if columns.get(field, field) in row.values]
        try:
            examples.append(kind.Example.model_validate({field: row.values[columns.get(field, field)] for field in fields}))
        except ValidationError as error:
            mistakes.append(f"{row.where}{_explain(error, columns)}")
    if mistakes:
        more = f"\n  … and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        listed = "\n".join(f"  {mistake}" for mistake in mistakes[:SHOWN])
        raise DataError(f"{source}: {len(mistakes)} row(s) cannot be used\n{listed}{more}")
    if not examples:
        raise DataError(f"{source}: the file holds no rows")
    return examples


def _shape(kind: type[AnyTask], columns: Mapping[str, str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that this row is meant to have: of all shapes that the task takes, the first that misses fewest."""
    return min(kind.row_shapes, key=lambda shape: sum(columns.get(field, field) not in values for field in shape))


def _explain(error: ValidationError, columns: Mapping[str, str]) -> str:
    problem = error.errors()[0]
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # fields that contradict each other: the message names them
        return f": {message}"
    field, *inner = problem["loc"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)
    return f", field {columns.get(str(field), str(field)) + place!r}: {short(problem['input'])}: {message}"


def split(kind: type[AnyTask], rows: Sequence[Any], fraction: float) -> tuple[list[Any], list[Any]]:
    """Train and holdout by a stable hash of the normalised input, drawn within each stratum (label).

    A row's side depends on its own text only: not on the order of the file, and not on rows added later. The exceptions
    are labels for which the hash picked no row, or every row: the row with the smallest hash goes to the holdout, the
    one with the largest stays in train. A label with a single text stays in train.
    """
    strata: dict[str, list[int]] = {}
    for index, stratum in enumerate(kind.strata(rows)):
        strata.setdefault(stratum, []).append(index)
    places = [_place(kind, row) for row in rows]
    held: set[float] = set()
    kept: set[float] = set()
    for members in strata.values():
        ranked = sorted({places[index] for index in members})
        wanted = sum(place < fraction for place in ranked)
        held.update(ranked[: min(max(wanted, 1), len(ranked) - 1)])
        kept.add(ranked[-1])
    held -= kept  # a text of several labels that one of them must learn from
    return (
        [row for row, place in zip(rows, places, strict=True) if place not in held],
        [row for row, place in zip(rows, places, strict=True) if place in held],
    )


def folds(kind: type[AnyTask], rows: Sequence[Any], count: int) -> list[int]:
    """For each row its fold, 0 to ``count`` - 1, for cross-validation.

    Each stratum (label) is dealt out evenly, and no group stands in two folds. As in `split`, the order of the rows does not
    matter: the groups of a stratum are dealt in the order of their hash, each stratum going on where the one before it stopped,
    so that the folds have almost the same size.
    """
    strata: dict[str, set[float]] = {}
    places = [_place(kind, row) for row in rows]
    for stratum, place in zip(kind.strata(rows), places, strict=True):
        strata.setdefault(stratum, set()).add(place)
    dealt: dict[float, int] = {}
    for stratum in sorted(strata):
        for place in sorted(strata[stratum] - dealt.keys()):
            dealt[place] = len(dealt) % count
    return [dealt[place] for place in places]


def normalise(text: str) -> str:
    """Unicode NFKC, case-folded, white space collapsed: what counts as the same text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _place(kind: type[AnyTask], row: Any) -> float:
    """A number in [0, 1) that depends on the row's normalised group alone."""
    digest = hashlib.sha256(normalise(kind.group(row)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _clean(kind: type[AnyTask], train: Sequence[Any], holdout: Sequence[Any]) -> tuple[list[Any], int, int]:
    """Train without leaks and repetitions, and how many of each were taken out."""
    forbidden = {normalise(kind.group(row)) for row in holdout}
    kept, seen, counts = [], set(), Counter[str]()
    question = {"id", *kind.Input.model_fields}
    for row in train:
        content, answer = normalise(kind.content(row)), row.model_dump_json(exclude=question)
        if normalise(kind.group(row)) in forbidden:
            counts["leaks"] += 1
        elif (content, answer) in seen:
            counts["duplicates"] += 1
        else:
            seen.add((content, answer))
            kept.append(row)
    return kept, counts["leaks"], counts["duplicates"]


def _hashes(train: bytes, holdout: bytes) -> tuple[str, str]:
    """The holdout's hash, and that of both sides together."""
    holdout_hash = hashlib.sha256(holdout).hexdigest()
    return holdout_hash, hashlib.sha256(holdout_hash.encode() + train).hexdigest()


def _to_bytes(rows: Sequence[Any]) -> bytes:
    return "".join(row.model_dump_json(exclude_none=True) + "\n" for row in rows).encode()


def _missing(column: str, values: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(column, map(str, values), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    present = ", ".join(map(repr, values)) or "no fields"
    return f"field {column!r} is missing; the row has {present}{hint} (map names with data.fields)"


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                values = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(f"{where}: not valid JSON: {error}") from error
            if not isinstance(values, dict):
                raise DataError(f"{where}: a JSON object is expected, not {short(values)}")
            yield Row(where=where, values=values)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.DictReader(map(_decoded, file))
        try:
            for values in reader:
                where = f"{path} line {reader.line_num}"
                if None in values:  # where DictReader puts fields beyond the header
                    fields = len(values) - 1 + len(values[None])
                    raise DataError(f"{where}: {fields} fields, the header has {len(values) - 1}; quote texts that hold commas")
                yield Row(where=where, values=dict(values))
        except (csv.Error, UnicodeError) as error:
            raise DataError(f"{path} line {reader.line_num + 1}: not valid CSV: {error}") from error


def _decoded(line: str) -> str:
    """The line, if its bytes were UTF-8. Files are decoded in blocks: only line by line is the place of a bad byte known."""
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError:
            raise UnicodeError("it is not UTF-8; save the file in that encoding") from None
    return line


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import ArrowInvalid, parquet

    try:
        table = parquet.read_table(path)
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error
    for number, values in enumerate(table.to_pylist(), start=1):
        yield Row(where=f"{path} row {number}", values=values)


def _read_hub(name: str, hub_split: str) -> Iterator[Row]:
    import datasets

    try:
        table = datasets.load_dataset(name, split=hub_split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{name!r} is neither a file nor a datasets id that can be loaded: {reason}") from error
    coded, listed = {}, {}
    for column, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            coded[column] = feature
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.ClassLabel):
            listed[column] = feature.feature
    for number, values in enumerate(table, start=1):
        named = {column: _name(feature, values[column]) for column, feature in coded.items()}
        named |= {column: [_name(feature, code) for code in values[column] or ()] for column, feature in listed.items()}
        yield Row(where=f"{name} {hub_split} row {number}", values={**values, **named})


def _name(feature: Any, code: int | None) -> Any:
    """A class label by its name; -1 and None mean that there is none: they stay, and `parse` says where."""
    return feature.int2str(code) if code in range(feature.num_classes) else code
