"""Routes that bring a version from elsewhere, and that evaluate a version without moving anything."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Request
from pydantic import Field, StringConstraints, field_validator

from baton.artifacts.storage import Storage
from baton.store.records import LARGEST_INTEGER, LONGEST_ID, Evaluation, Source
from services.control.api.bodies import Body, to_json_values
from services.control.api.guard import key_of
from services.control.api.models import LONG_METRICS
from services.control.api.protocol import ControlPlane

LONGEST_LOCATION = 4096
"""Maximum length in characters of a path or a URL: that of a path on Linux."""

MOST_LABELS = 10_000
"""Maximum number of labels that may be named."""

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
"""Form of the id of a model on the Hugging Face hub."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class Registration(Body):
    """A model that was trained elsewhere."""

    source: str = Field(
        min_length=1,
        max_length=LONGEST_LOCATION,
        description="A Hugging Face directory with weights and tokenizer: a path that the nodes of the cluster can read, or a "
        "storage URL (s3://bucket/path). Or the id of a model on the hub. A relative path is refused.",
    )
    labels: dict[Name, Name] | None = Field(
        None,
        max_length=MOST_LABELS,
        description="Names for the model's labels: its own names, or their numbers, and what it should answer. Example: "
        '{"LABEL_0": "billing"}. By default its own names (`id2label` in its configuration).',
    )

    @field_validator("source")
    @classmethod
    def _refuse_relative_paths(cls, source: str) -> str:
        if not source.startswith("/") and "://" not in source and not HUB_ID.fullmatch(source):
            raise ValueError(
                "a relative path means another directory on each node; give an absolute path that the nodes of the cluster can "
                "read, a storage URL (s3://bucket/path), or the id of a model on the hub (OWNER/NAME)"
            )
        return source


def add_versions(api: FastAPI, control: ControlPlane) -> None:
    """Add the routes that register and evaluate versions."""
    registry = control.registry
    storage = Storage(control.config.storage)

    @api.post("/api/models/{model}/versions", status_code=202, tags=["models"])
    async def register(
        model: str,
        body: Registration,
        request: Request,
        idempotency_key: Annotated[str | None, Header(max_length=LONGEST_ID)] = None,
    ) -> dict[str, Any]:
        """Register a version that was trained elsewhere: import it, evaluate it on the holdout, and ask the gate.

        Answers with a run, which can be watched and cancelled like one that trains; if the gate agrees, the version takes over.
        Without declared data it is published, but not evaluated, and only force promotes it. The same files are registered
        once: the run then names their version. Answers 409 while a run of this model is active.
        """
        control.config.model(model)
        key = key_of(request.scope)
        source = Source(location=body.source, labels=body.labels, by=key.name if key else None)
        return to_json_values(await control.register(model, source, idempotency_key))

    @api.post("/api/models/{model}/versions/{number}/evaluations", tags=["models"])
    async def evaluate(model: str, number: Annotated[int, Path(ge=1, le=LARGEST_INTEGER)]) -> dict[str, Any]:
        """Evaluate a version on the newest holdout, unless its scores are stored. Nothing moves, and no match is counted.

        Answers with the scores, those of the champion on the same holdout if they are stored, and the report of the gate's
        newest decision on the version if it was on this holdout, against this champion.
        """
        control.config.model(model)
        found = await control.evaluate(model, number)
        return await asyncio.to_thread(answer, found)

    def answer(found: Evaluation) -> dict[str, Any]:
        model = found.model
        champion = registry.champion(model).version
        other = None if champion in (None, found.version) else registry.evaluations.get(model, champion, found.holdout_hash)
        decision = registry.newest_gate_decision(model, found.version)
        match = (found.holdout_hash, champion)
        if decision is not None and (decision.numbers.get("holdout_hash"), decision.champion) != match:
            decision = None  # of an older holdout, or against another champion
        path = None if decision is None else decision.numbers.get("report")
        content = None if path is None else storage.read_report(path)
        return {
            "model": model,
            "version": found.version,
            "holdout_hash": found.holdout_hash,
            "holdout_rows": len(found.statistics),
            "champion": champion,
            "evaluation": _scores(found),
            "champion_evaluation": None if other is None else _scores(other),
            "decision": None if decision is None else to_json_values(decision),
            "report": None if content is None else json.loads(content),
        }


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    """Return the metrics of an evaluation, with those of each label, without the ones that fill screens."""
    kept = {key: value for key, value in evaluation.metrics.items() if key not in LONG_METRICS or key == "per_class"}
    return {"metrics": kept, "created_at": evaluation.created_at.isoformat()}
