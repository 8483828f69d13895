"""The audit for people: how far each batch is labelled, what is to be labelled next, and taking labels.

The answers of the model are not shown, so that nobody is tempted to agree with them. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from baton.config.model_settings import ModelSettings
from baton.errors import DataError, InvalidInput, NotFound
from baton.quality.audit import BATCH, COVERAGE
from baton.store.feedback.correction import Correction
from baton.store.records import LARGEST_INTEGER, AuditItem
from baton.store.registry import Registry
from baton.tasks import task_type
from baton.tasks.rows import Row, example_of
from baton.text.normal_form import fingerprint
from baton.validation import short_repr


def progress(registry: Registry, settings: ModelSettings) -> dict[str, Any]:
    """Return how far the audit is, as JSON values: each batch, with how many of its texts are labelled and are needed.

    ``deleted``: texts that nobody labelled within the retention.
    """
    needed = round(COVERAGE * BATCH)
    return {
        "share": settings.feedback.audit,
        "batch_size": BATCH,
        "batches": [
            {
                "number": number,
                **asdict(batch),
                "needed": needed,
                "judges": batch.texts == BATCH and batch.done >= COVERAGE * BATCH,
            }
            for number, batch in enumerate(registry.audit.count(settings.name, BATCH), start=1)
        ],
    }


def shown(item: AuditItem) -> dict[str, Any]:
    """Return a text to label as JSON values: its id and its input, without any answer."""
    return {
        **{name: value for name, value in item.input.items() if value is not None},
        "id": item.id,
        "drawn_at": item.drawn_at.isoformat(),
    }


def take_labels(registry: Registry, settings: ModelSettings, items: Sequence[Any], sender: str | None) -> dict[str, Any]:
    """Store labels: items with the ``id`` of a drawn text, and its answer in the fields of the task or ``undecidable: true``.

    A bad item is counted and reported, and does not affect the others. A second label of a text replaces the first; the same
    label again stores nothing, so that a request may be sent twice.
    """
    labelled = undecidable = 0
    errors: list[dict[str, Any]] = []
    for index, value in enumerate(items):
        try:
            item, answer = _parse(registry, settings, value)
            if answer is None:
                registry.audit.mark_undecidable(settings.name, item.id)
                undecidable += 1
            else:
                label = _label(settings, item, answer, sender)
                if label.example != item.example:
                    registry.feedback.add(settings.name, [label])
                labelled += 1
        except (InvalidInput, NotFound) as error:
            errors.append({"item": index, "error": str(error)})
    return {"labelled": labelled, "undecidable": undecidable, "rejected": len(errors), "errors": errors}


def _parse(registry: Registry, settings: ModelSettings, value: object) -> tuple[AuditItem, Mapping[str, Any] | None]:
    """Return the drawn text of an item and the answer; None for the answer if it is undecidable."""
    if not isinstance(value, dict):
        raise InvalidInput(f"a JSON object is expected, not {short_repr(value)}")
    number = value.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= LARGEST_INTEGER:
        raise InvalidInput(f"id: {short_repr(number)}: the id of a text of the audit is expected (GET …/audit)")
    item = registry.audit.get(settings.name, number)
    if not item.input:
        raise InvalidInput(f"id: the text {number} was deleted before anybody labelled it (feedback.retention_days)")
    answer = {name: field for name, field in value.items() if name not in ("id", "drawn_at", *item.input)}
    if answer.pop("undecidable", False) is True:
        if answer:
            raise InvalidInput(f"text {number} has an answer and is undecidable; send one of them")
        return item, None
    return item, answer


def _label(settings: ModelSettings, item: AuditItem, answer: Mapping[str, Any], sender: str | None) -> Correction:
    task_cls = task_type(settings.task)
    values = {**{name: value for name, value in item.input.items() if value is not None}, **answer}
    try:
        example = example_of(task_cls, Row(where="", values=values), {})
    except DataError as error:
        raise InvalidInput(f"text {item.id}: {str(error).lstrip(':, ')}") from None
    content = fingerprint(task_cls.content(example))
    if content != fingerprint(task_cls.content(task_cls.Input.model_construct(**item.input))):
        raise InvalidInput(f"text {item.id}: the answer is for another text; it must be for {short_repr(dict(item.input))}")
    return Correction(
        client_id=None,
        request_id=None,
        position=0,
        example=example.model_dump(mode="json", exclude_none=True),
        sender=sender,
        audited_as=content,
    )
