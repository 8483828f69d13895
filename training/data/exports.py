"""Rows as annotation tools export them → rows with the fields of a task. Read `Adapter.adapt` first.

Knows the forms of doccano, Label Studio, Prodigy and spaCy (docs/data.md has the list), and what annotators said about a row
as a whole: rejected and skipped rows are no examples. Everything that is left out or changed becomes a remark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from baton.errors import DataError
from baton.tasks import AnyTask
from baton.tasks.checks import from_cell
from baton.tasks.ner_rows import as_span, reads
from baton.tasks.rows import Row
from training.data.remarks import Remarks

SPANS = ("spans", "label", "labels")
"""Columns that hold a row's entities in exports: Prodigy's, doccano's (and spaCy's triples there), Label Studio's JSON_MIN."""

VERDICT_COLUMNS = ("answer", "verdict", "status", "annotation_status", "review_status")
"""Columns in which annotators say whether a row is right, if all of their values are `VERDICTS`."""

LEFT_OUT = frozenset({"reject", "rejected", "ignore", "ignored", "skip", "skipped", "discard", "discarded"})
VERDICTS = LEFT_OUT | {"accept", "accepted", "submitted", "draft", "pending", ""}
"""Words of Prodigy (``answer``) and Argilla (``status``), and their like."""

LEFT_OUT_FLAGS = {
    **dict.fromkeys(("was_cancelled", "skipped", "rejected", "ignored", "discarded"), "true"),
    "accepted": "false",
}
"""Columns of true and false that leave a row out, and the value with which they do."""


@dataclass
class Adapter:
    """Adapts the rows of one source to a task."""

    task_cls: type[AnyTask]
    columns: Mapping[str, str]
    """The configured names of columns, by field (``data.fields``)."""
    remarks: Remarks
    read: set[str] = field(default_factory=set)
    """Columns that were read besides the task's fields."""
    _verdicts: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fields = {name for shape in self.task_cls.row_shapes for name in shape}
        self._used = {*self.columns.values(), *(name for name in self._fields if name not in self.columns)}

    def adapt(self, row: Row) -> Row | None:
        """Return the row with the task's fields in the columns where they are expected; None if it is no example.

        Raises:
            DataError: the row looks like an export, and is none.
        """
        try:
            values = self._adapted(row)
        except (TypeError, AttributeError, ValueError, KeyError) as error:
            raise DataError(f"{row.where}: not in a form that Baton knows: {type(error).__name__}: {error}") from error
        return None if values is None else Row(where=row.where, values=values)

    def _adapted(self, row: Row) -> Mapping[str, Any] | None:
        values: Mapping[str, Any] | None = row.values
        if isinstance(row.values.get("annotations"), list) and isinstance(row.values.get("data"), dict):
            values = self._label_studio(row)
        for change in (self._entities, self._label):
            values = None if values is None else change(Row(where=row.where, values=values))
        return values

    def verdict(self, row: Row) -> Mapping[str, str]:
        """Return what annotators said about the row, by column: the words that leave it out, if `decided` says so."""
        said = {}
        for column in VERDICT_COLUMNS:
            if column in row.values and column not in self._used:
                value = row.values[column]
                word = value.strip().casefold() if isinstance(value, str) else "" if value is None else "?"
                self._verdicts.setdefault(column, set()).add(word if word in VERDICTS else "?")
                if word in LEFT_OUT:
                    said[column] = word
        for column, without in LEFT_OUT_FLAGS.items():
            if column in row.values and column not in self._used:
                word = _flag(row.values[column])
                self._verdicts.setdefault(column, set()).add(word)
                if word == without:
                    said[column] = word
        return said

    def decided(self, said: Mapping[str, str]) -> str | None:
        """Return why a row is left out by what `verdict` returned, once all rows were seen; None if it stays."""
        for column, word in said.items():
            if "?" not in self._verdicts[column]:
                return f"left out, because its {column!r} is {word!r}"
        return None

    @property
    def verdict_columns(self) -> set[str]:
        """Columns that were read as verdicts."""
        return {column for column, words in self._verdicts.items() if "?" not in words}

    def _column(self, name: str) -> str:
        return self.columns.get(name, name)

    def _lacks(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether the task wants a field, nobody said which column it is in, and the row has no column of that name."""
        return name in self._fields and name not in self.columns and name not in values

    # --- the forms ------------------------------------------------------------------------------------------------------

    def _label_studio(self, row: Row) -> Mapping[str, Any] | None:
        """A task of Label Studio's JSON export: ``data`` has the text, ``annotations`` what each annotator marked."""
        self.read |= {"data", "annotations"}
        done = [one for one in row.values["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
        if not done:
            skipped = "skipped by its annotators" if row.values["annotations"] else "not annotated"
            self.remarks.note(f"left out, because it was {skipped}", row.where)
            return None
        if len(done) > 1:
            self.remarks.note("annotated more than once; the last annotation is used", row.where)
        marked = [one for one in done[-1].get("result") or () if isinstance(one, dict) and isinstance(one.get("value"), dict)]
        values = dict(row.values["data"])
        if "entities" in self._fields:
            values[self._column("entities")] = [
                one["value"] for one in marked if "start" in one["value"] and "labels" in one["value"]
            ]
        elif "label" in self._fields:
            chosen = [one for one in marked if "choices" in one["value"]]
            if len(questions := sorted({str(one.get("from_name")) for one in chosen})) > 1:
                raise ValueError(f"it answers several questions ({', '.join(questions)}); export them as columns (JSON-MIN)")
            values[self._column("label")] = [choice for one in chosen for choice in one["value"]["choices"]]
        return values

    def _entities(self, row: Row) -> Mapping[str, Any]:
        """Take entities from the columns where exports have them, and count their positions in code points."""
        if "entities" not in self._fields:
            return row.values
        values, column = row.values, self._column("entities")
        if self._lacks("entities", values) and not {"tokens", "tags"} <= values.keys():
            found = next((name for name in SPANS if _is_list(values.get(name))), None)
            if found is not None:
                self.read.add(found)
                values = {**values, column: values[found]}
        spans, text = _cell(values.get(column)), values.get(self._column("text"))
        if isinstance(text, str) and isinstance(spans, list) and (unit := _other_unit(text, spans)):
            name, positions = unit
            self.remarks.note(
                f"its positions count {name}; they were converted to code points by the texts beside them", row.where
            )
            moved = [{**as_span(one), "start": start, "end": end} for one, (start, end) in zip(spans, positions, strict=True)]
            values = {**values, column: moved}
        return values

    def _label(self, row: Row) -> Mapping[str, Any] | None:
        """Take labels from the columns and lists where exports have them."""
        if "label" not in self._fields:
            return row.values
        values, column = row.values, self._column("label")
        if self._lacks("label", values):
            for name, labels in (("accept", _listed), ("cats", _certain)):
                if (found := labels(values.get(name))) is not None:
                    self.read |= {name, "options"}
                    values = {**values, column: found}
                    break
        label = _cell(values.get(column))
        if isinstance(label, dict) and isinstance(label.get("choices"), list):
            label = label["choices"]
            values = {**values, column: label}
        if self.task_cls.target == "class" and isinstance(label, list):
            if not label:
                self.remarks.note("left out, because it has no label", row.where)
                return None
            if len(label) == 1:
                values = {**values, column: label[0]}
        return values


def _flag(value: Any) -> str:
    """Return ``true``, ``false``, nothing for no value, or ``?`` for any other."""
    word = "" if value is None else str(value).strip().casefold()
    return word if word in ("true", "false", "") and isinstance(value, bool | str | None) else "?"


def _listed(value: Any) -> list[Any] | None:
    """The chosen options of Prodigy's interface ``choice``."""
    return value if isinstance(value, list) else None


def _certain(value: Any) -> list[str] | None:
    """The categories of spaCy's ``cats`` that apply: those with more than one half."""
    return [name for name, score in value.items() if score and float(score) > 0.5] if isinstance(value, dict) else None


def _cell(value: Any) -> Any:
    try:
        return from_cell(value)
    except ValueError:  # the task reports it
        return value


def _is_list(value: Any) -> bool:
    return isinstance(_cell(value), list)


def _utf16(text: str) -> Sequence[int]:
    """Return the code point at each UTF-16 unit, and the end."""
    return [position for position, character in enumerate(text) for _ in range(1 + (ord(character) > 0xFFFF))] + [len(text)]


def _utf8(text: str) -> Sequence[int]:
    """Return the code point at each byte of UTF-8, and the end."""
    return [position for position, character in enumerate(text) for _ in character.encode(errors="replace")] + [len(text)]


UNITS: Mapping[str, Callable[[str], Sequence[int]]] = {"UTF-16 units": _utf16, "bytes of UTF-8": _utf8}
"""What tools count besides code points: JavaScript and Java UTF-16 units, some command lines bytes."""


def _other_unit(text: str, spans: Sequence[Any]) -> tuple[str, list[tuple[int, int]]] | None:
    """Return what the positions of a row count, and the positions in code points, if its spans say so.

    None if every span reads what it says by code points, or if no unit makes all of them read so.
    """
    if text.isascii():
        return None
    try:
        said = [as_span(one) for one in spans]
    except ValueError:  # the task reports it
        return None
    if any(not isinstance(one[key], int) for one in said for key in ("start", "end")) or all(reads(text, one) for one in said):
        return None
    for name, unit in UNITS.items():
        points = unit(text)
        if all(0 <= one["start"] < one["end"] < len(points) for one in said):
            positions = [(points[one["start"]], points[one["end"]]) for one in said]
            if all(reads(text, {**one, "start": start, "end": end}) for one, (start, end) in zip(said, positions, strict=True)):
                return name, positions
    return None
