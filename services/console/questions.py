"""What people are asked to label, and why: audited texts, then the least certain answers, then suspect training rows.

Only the first kind judges versions, and so comes without the model's answer. The others train, as every correction does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from baton.artifacts.storage import Storage
from baton.artifacts.suspects import stored_suspects
from baton.config.model_settings import ModelSettings
from baton.errors import NotFound, StorageError
from baton.store.feedback.predictions import AnswerName
from baton.store.records import LARGEST_INTEGER, AuditItem, LoggedPrediction
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.text.normal_form import fingerprint
from services.control import audit

NEWEST = 2000
"""Number of the newest answers of the version that serves among which the least certain ones are found."""

MOST_UNSURE = 50
"""Number of least certain answers that are asked about. Those that are corrected count, so that the queue has an end."""


UNSURE_ID, SUSPECT_ID = "unsure:", "suspect:"
"""What the ids of corrections begin with; a fingerprint of the text follows, so that no text is asked about again."""


class Source(StrEnum):
    """Where a question comes from, in the order in which they are asked."""

    AUDIT = "audit"
    UNSURE = "unsure"
    SUSPECT = "suspect"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One text to label."""

    source: Source
    key: str
    """Names it among those of its source."""
    input: Mapping[str, Any]
    answer: Mapping[str, Any]
    """The answer in doubt, in the fields of a row of the task; {} in the audit, where nobody may see one."""
    names: Mapping[str, Any]
    """The ``id`` under which its correction is stored; {} in the audit."""
    why: Mapping[str, Any]
    """Numbers and names for the sentence that says why it is asked."""
    done: bool = False
    """Whether somebody has answered it."""


class Questions:
    """The questions about one model, as they are now. Blocks on the registry and the storage."""

    def __init__(self, registry: Registry, storage: Storage, settings: ModelSettings, *, corrects: bool) -> None:
        """``corrects``: whether the reader may send corrections. Without that, only the audit asks."""
        self._registry, self._storage, self._settings, self._corrects = registry, storage, settings, corrects
        self.problem: str | None = None
        """Why the suspects cannot be read, once they were asked for."""

    @cached_property
    def audit(self) -> Mapping[str, Any]:
        """How far the audit is (`services.control.audit.progress`)."""
        return audit.progress(self._registry, self._settings)

    @cached_property
    def counts(self) -> dict[Source, int]:
        """How many questions of each source wait."""
        batches = self.audit["batches"]
        return {
            Source.AUDIT: sum(it["texts"] - it["labelled"] - it["undecidable"] - it["deleted"] for it in batches),
            Source.UNSURE: sum(not question.done for question in self._unsure),
            Source.SUSPECT: sum(not question.done for question in self._suspects),
        }

    def next(self, source: Source, after: str) -> Question | None:
        """Return the first question from ``source`` on that waits; of this one, the first after the question ``after``."""
        for place in list(Source)[list(Source).index(source) :]:
            if (found := self._first(place, after if place is source else "")) is not None:
                return found
        return None

    def get(self, source: Source, key: str) -> Question:
        """Return one question, also if it is answered. Raises ``NotFound``."""
        found: Question | None = None
        match source:
            case Source.AUDIT:
                found = self._audited(self._registry.audit.get(self._settings.name, _number(key)))
            case Source.UNSURE if self._corrects:
                answer_id, _, position = key.rpartition(":")
                name = AnswerName(answer_id, None, _number(position))
                answer = self._registry.predictions.find(self._settings.name, [name]).get(name)
                found = None if answer is None or answer.output is None else self._doubted(answer, done=False)
            case Source.SUSPECT if self._corrects:
                found = next((question for question in self._suspects if question.key == key), None)
        if found is None:
            raise NotFound(f"{self._settings.name} has no text {key[:100]!r} to review ({source}); load the page again")
        return found

    def _first(self, source: Source, after: str) -> Question | None:
        if source is Source.AUDIT:
            found = self._registry.audit.waiting(self._settings.name, limit=1, after=_number(after))
            return self._audited(found[0]) if found else None
        questions = self._unsure if source is Source.UNSURE else self._suspects
        keys = [question.key for question in questions]
        start = keys.index(after) + 1 if after in keys else 0
        return next((question for question in questions[start:] if not question.done), None)

    def _audited(self, item: AuditItem) -> Question:
        return Question(source=Source.AUDIT, key=str(item.id), input=item.input, answer={}, names={}, why={}, done=item.done)

    @cached_property
    def _unsure(self) -> Sequence[Question]:
        """The least certain answers, without those whose texts the audit has drawn: their labels judge."""
        name, champion = self._settings.name, self._registry.champion(self._settings.name).version
        if not self._corrects or champion is None:
            return []
        found = self._registry.predictions.least_certain(name, champion, among=NEWEST, limit=MOST_UNSURE)
        contents = [self._content(one.answer.input) for one in found]
        drawn = self._registry.audit.drawn(name, contents)
        known = self._registry.feedback.known(name, [f"{UNSURE_ID}{content}" for content in contents])
        return [
            self._doubted(one.answer, done=one.corrected or f"{UNSURE_ID}{content}" in known)
            for one, content in zip(found, contents, strict=True)
            if content not in drawn and one.answer.output is not None
        ]

    def _doubted(self, answer: LoggedPrediction, *, done: bool) -> Question:
        """Return the question about an answer. Its correction does not name the answer, and so is not scored as live quality:
        those that are chosen for their low scores are worse than the rest.
        """
        return Question(
            source=Source.UNSURE,
            key=f"{answer.answer_id}:{answer.position}",
            input=answer.input,
            answer=answer_fields(self._settings, answer.output or {}),
            names={"id": f"{UNSURE_ID}{self._content(answer.input)}"},
            why={"score": answer.confidence, "version": answer.version},
            done=done,
        )

    @cached_property
    def _suspects(self) -> Sequence[Question]:
        task_cls = task_type(self._settings.task)
        if not self._corrects or task_cls.target != "class":
            return []
        try:
            rows = stored_suspects(self._storage, self._settings.name)
        except StorageError as error:  # the other questions are asked nevertheless
            self.problem = str(error)
            return []
        inputs = [{name: row[name] for name in task_cls.Input.model_fields if row.get(name) is not None} for row in rows]
        ids = [f"{SUSPECT_ID}{self._content(one)}" for one in inputs]
        known = self._registry.feedback.known(self._settings.name, ids)
        return [
            Question(
                source=Source.SUSPECT,
                key=one.removeprefix(SUSPECT_ID),
                input=item,
                answer={"label": row["label"]},
                names={"id": one},
                why={"suggested": row["_suggested"], "margin": row["_margin"], "where": row["_where"]},
                done=one in known,
            )
            for one, item, row in zip(ids, inputs, rows, strict=True)
        ]

    def _content(self, inputs: Mapping[str, Any]) -> str:
        task_cls = task_type(self._settings.task)
        return fingerprint(task_cls.content(task_cls.Input.model_construct(**inputs)))


def answer_fields(settings: ModelSettings, output: Mapping[str, Any]) -> dict[str, Any]:
    """Return a logged answer in the fields of a row of the task; {} for a task whose answers have no score."""
    match settings.task:
        case "classification":
            return {"label": output["labels"][0]}
        case "multi_label":
            return {"label": [label for label, applies in zip(output["labels"], output["assigned"], strict=True) if applies]}
        case "ner":
            return {"entities": [{name: entity[name] for name in ("start", "end", "label")} for entity in output["entities"]]}
        case "qa":
            best = output["answers"][0]
            found = [best] if best["answer"] else []
            return {"answers": {"text": [it["answer"] for it in found], "answer_start": [it["start"] for it in found]}}
    return {}


def _number(text: str) -> int:
    """Return the number that a key of the audit, or of a position, is; 0 for anything else."""
    return min(int(text[:10]), LARGEST_INTEGER) if text.isascii() and text.isdigit() else 0
