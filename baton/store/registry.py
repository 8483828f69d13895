"""The registry: versions, runs, evaluations, decisions, and the champion pointer.

The pointer moves only in `promote`: by compare-and-swap on its sequence number, in the same transaction that checks the
stored Decision and appends the Promotion. Knows neither tasks nor storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from baton.errors import Conflict, NotFound
from baton.store import database, schema
from baton.store.counts import Counts
from baton.store.dataset_store import DatasetStore
from baton.store.feedback import FeedbackStore
from baton.store.key_store import KeyStore
from baton.store.records import (
    Champion,
    Decision,
    DecisionKind,
    Evaluation,
    HistoryEntry,
    HistoryKind,
    Incident,
    ModelVersion,
    Promotion,
    RunState,
    Verdict,
)
from baton.store.retrain_state import RetrainState
from baton.store.run_store import RunStore, as_run

PAGE = 50
"""Rows in one page of a listing unless the caller says otherwise."""


class Registry:
    """All that Baton knows, on one SQLAlchemy engine. Thread-safe; every method is one transaction.

    Any method raises ``RegistryError`` when the database does not answer.
    """

    def __init__(self, url: str, *, wait_s: float = 0.0) -> None:
        """``wait_s``: how long a call may wait for a PostgreSQL server that is down, before it raises."""
        self._engine = database.connect(url, wait_s)
        self.counts = Counts(self._engine)
        self.runs = RunStore(self._engine)
        self.datasets = DatasetStore(self._engine)
        self.feedback = FeedbackStore(self._engine)
        self.retrain = RetrainState(self._engine)
        self.keys = KeyStore(self._engine)

    def migrate(self) -> None:
        """Create or upgrade the schema. Raises ``RegistryError`` on a schema newer than this code."""
        from baton.store import upgrade

        upgrade.migrate(self._engine)

    def check(self) -> None:
        """Raise ``RegistryError`` unless the database answers with this code's schema."""
        from baton.store import upgrade

        upgrade.check(self._engine)

    def is_empty(self) -> bool:
        """Whether the database has no schema yet, and so nothing in it."""
        from baton.store import upgrade

        return upgrade.is_empty(self._engine)

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()

    # --- models and their champion -----------------------------------------------------------------------------------

    def declare_model(self, name: str, settings: Mapping[str, Any] | None = None) -> None:
        """Know model ``name`` from now on, with its settings as last declared in `baton.yaml`."""
        table = schema.models
        with self._write() as connection:
            new = database.insert(connection, table).values(name=name, settings=settings or {}, created_at=_now())
            connection.execute(new.on_conflict_do_nothing())
            if settings is not None:
                connection.execute(table.update().where(table.c.name == name).values(settings=settings))

    def settings(self, name: str) -> Mapping[str, Any]:
        """The settings of a model as last declared. Raises ``NotFound``."""
        with self._read() as connection:
            _champion(connection, name)
            row = connection.execute(sa.select(schema.models.c.settings).where(schema.models.c.name == name)).one()
        settings: Mapping[str, Any] = row.settings
        return settings

    def declared(self) -> dict[str, Mapping[str, Any]]:
        """All models that ever were in service, with their settings as last declared."""
        with self._read() as connection:
            rows = connection.execute(sa.select(schema.models.c.name, schema.models.c.settings))
            return {row.name: row.settings for row in rows}

    def declared_at(self, name: str) -> datetime:
        """When a model was first declared. Raises ``NotFound``."""
        with self._read() as connection:
            _champion(connection, name)
            stamp: datetime = connection.execute(
                sa.select(schema.models.c.created_at).where(schema.models.c.name == name)
            ).scalar_one()
        return stamp

    def champion(self, model: str) -> Champion:
        """The pointer of ``model``. Raises ``NotFound``."""
        with self._read() as connection:
            return _champion(connection, model)

    def champion_version(self, model: str) -> ModelVersion | None:
        """The version that serves, or None before the first promotion. Raises ``NotFound`` for an unknown model."""
        champion = self.champion(model)
        return None if champion.version is None else self.version(model, champion.version)

    def promote(self, decision: Decision, expected: Champion) -> Promotion:
        """Make ``decision.candidate`` the champion, if the pointer still is where ``expected`` saw it.

        A gate decision must already be stored (`add_decision`), pass, and name the then champion; forced moves and
        rollbacks are stored here, in the same transaction.

        Raises:
            Conflict: the pointer moved meanwhile, or the decision does not allow this move.
            NotFound: the version is not published.
        """
        model, version = decision.model, decision.candidate
        with self._write() as connection:
            _version(connection, model, version)
            if version == expected.version:
                raise Conflict(f"v{version} is already the champion of {model}")
            moved = connection.execute(
                schema.models.update()
                .where(
                    schema.models.c.name == model,
                    schema.models.c.champion_sequence == expected.sequence,
                    schema.models.c.champion_version.is_not_distinct_from(expected.version),
                )
                .values(champion_version=version, champion_sequence=expected.sequence + 1)
            )
            if moved.rowcount != 1:
                current = _champion(connection, model)
                raise Conflict(
                    f"{model}: the champion is now {_name(current.version)} (move {current.sequence}), "
                    f"not {_name(expected.version)} (move {expected.sequence}); decide again"
                )
            if decision.champion != expected.version:
                raise Conflict(
                    f"{model}: this decision is against {_name(decision.champion)}, "
                    f"but {_name(expected.version)} serves; decide again"
                )
            decision_id = self._admit(connection, decision)
            row = connection.execute(
                schema.promotions.insert()
                .values(
                    model=model,
                    sequence=expected.sequence + 1,
                    version=version,
                    previous=expected.version,
                    decision_id=decision_id,
                    kind=decision.kind,
                    created_at=_now(),
                )
                .returning(schema.promotions)
            ).one()
        return _promotion(row)

    def _admit(self, connection: sa.Connection, decision: Decision) -> int:
        """The id of the stored decision that allows this move. Raises ``Conflict`` where none does."""
        if decision.kind is DecisionKind.GATE:
            stored = connection.execute(schema.decisions.select().where(schema.decisions.c.id == decision.id)).one_or_none()
            if stored is None:
                raise Conflict("a gate decision must be stored before it can promote")
            found = _decision(stored)
            if (found.model, found.candidate, found.champion) != (decision.model, decision.candidate, decision.champion):
                raise Conflict(f"decision {found.id} is about another move")
            if found.kind is not DecisionKind.GATE or found.verdict is not Verdict.PROMOTE:
                raise Conflict(f"decision {found.id} does not allow a promotion: {found.verdict}")
            for version in filter(None, (found.candidate, found.champion)):
                if _evaluation(connection, found.model, version, str(found.numbers.get("holdout_hash"))) is None:
                    raise Conflict(f"decision {found.id}: v{version} has no evaluation on its holdout")
            assert found.id is not None
            return found.id
        if not (decision.reason or "").strip():
            raise Conflict(f"a {decision.kind} needs a reason")
        if decision.kind is DecisionKind.ROLLBACK and decision.candidate not in _past_champions(connection, decision.model):
            raise Conflict(f"v{decision.candidate} has never been champion of {decision.model}; use promote")
        return _insert_decision(connection, decision)

    def past_champions(self, model: str) -> set[int]:
        """All versions that have ever been champion."""
        with self._read() as connection:
            return _past_champions(connection, model)

    def previous_champion(self, model: str) -> int | None:
        """The version that a rollback returns to: the champion before the current one, older rollbacks undone.

        None where there is nothing to go back to.
        """
        with self._read() as connection:
            stack: list[int] = []
            for row in connection.execute(
                sa.select(schema.promotions.c.version, schema.promotions.c.kind)
                .where(schema.promotions.c.model == model)
                .order_by(schema.promotions.c.sequence)
            ):
                if row.kind == DecisionKind.ROLLBACK and row.version in stack:
                    while stack[-1] != row.version:
                        stack.pop()
                else:
                    stack.append(row.version)
            return stack[-2] if len(stack) > 1 else None

    def promotions(self, model: str, *, limit: int = PAGE, before: int | None = None) -> list[Promotion]:
        """Moves of the pointer, newest first; ``before`` a promotion id for the next page."""
        with self._read() as connection:
            return [_promotion(row) for row in connection.execute(_page(schema.promotions, model, limit, before))]

    # --- versions ----------------------------------------------------------------------------------------------------

    def reserve_version(self, model: str, run_id: str | None, *, above: int = 0) -> int:
        """A number for a version about to be published. The same run always gets the same number.

        ``above``: the greatest number that the storage holds, which after a restore of the database may be ahead of it.
        """
        with self._write() as connection:
            database.lock_model(connection, model)
            if run_id is not None:
                taken = connection.scalar(sa.select(schema.versions.c.number).where(schema.versions.c.run_id == run_id))
                if taken is not None:
                    return int(taken)
            last = connection.scalar(sa.select(sa.func.max(schema.versions.c.number)).where(schema.versions.c.model == model))
            number = max(int(last or 0), above) + 1
            connection.execute(
                schema.versions.insert().values(model=model, number=number, run_id=run_id, published=False, created_at=_now())
            )
            return number

    def publish_version(
        self,
        model: str,
        number: int,
        *,
        uri: str,
        manifest_sha256: str,
        metrics: Mapping[str, Any],
        lineage: Mapping[str, Any],
    ) -> ModelVersion:
        """Mark a reserved version as whole and readable. Only published versions are listed, promoted or served.

        Raises:
            Conflict: the number was not reserved, or the version is published already: versions never change.
        """
        table = schema.versions
        with self._write() as connection:
            marked = connection.execute(
                table.update()
                .where(table.c.model == model, table.c.number == number, ~table.c.published)
                .values(uri=uri, manifest_sha256=manifest_sha256, metrics=metrics, lineage=lineage, published=True)
            )
            if marked.rowcount != 1:
                raise Conflict(f"{model} v{number} is not waiting to be published")
            return _version(connection, model, number)

    def version(self, model: str, number: int) -> ModelVersion:
        """One published version. Raises ``NotFound``."""
        with self._read() as connection:
            return _version(connection, model, number)

    def versions(self, model: str, *, limit: int = PAGE, before: int | None = None) -> list[ModelVersion]:
        """Published versions, newest first; ``before`` a version number for the next page."""
        table = schema.versions
        query = table.select().where(table.c.model == model, table.c.published).order_by(table.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.number < before)
        with self._read() as connection:
            return [_model_version(row) for row in connection.execute(query)]

    # --- evaluations and decisions -----------------------------------------------------------------------------------

    def add_evaluation(
        self,
        model: str,
        version: int,
        holdout_hash: str,
        metrics: Mapping[str, Any],
        statistics: NDArray[np.int32],
    ) -> Evaluation:
        """Store one version's scores on one holdout. They are a fact about frozen things: the first one stored stays."""
        with self._write() as connection:
            database.lock_model(connection, model)
            known = _evaluation(connection, model, version, holdout_hash)
            if known is not None:
                return known
            connection.execute(
                schema.evaluations.insert().values(
                    model=model,
                    version=version,
                    holdout_hash=holdout_hash,
                    metrics=metrics,
                    statistics=statistics,
                    created_at=_now(),
                )
            )
            stored = _evaluation(connection, model, version, holdout_hash)
            assert stored is not None
            return stored

    def evaluation(self, model: str, version: int, holdout_hash: str) -> Evaluation | None:
        """The stored scores of ``version`` on a holdout, or None."""
        with self._read() as connection:
            return _evaluation(connection, model, version, holdout_hash)

    def add_decision(self, decision: Decision) -> Decision:
        """Store what the gate said, whatever it said."""
        with self._write() as connection:
            _champion(connection, decision.model)
            decision_id = _insert_decision(connection, decision)
            return _decision(connection.execute(schema.decisions.select().where(schema.decisions.c.id == decision_id)).one())

    def decision(self, decision_id: int) -> Decision:
        """One stored decision. Raises ``NotFound``."""
        with self._read() as connection:
            row = connection.execute(schema.decisions.select().where(schema.decisions.c.id == decision_id)).one_or_none()
        if row is None:
            raise NotFound(f"no decision {decision_id}")
        return _decision(row)

    def gate_decision(
        self, model: str, candidate: int, champion: int | None, policy: Mapping[str, Any], holdout_hash: str | None = None
    ) -> Decision | None:
        """The newest gate decision on exactly this match under exactly this policy, or None when it has not been played.

        ``holdout_hash``: only a match on this holdout counts; without it, one on any.
        """
        table = schema.decisions
        query = (
            table.select()
            .where(
                table.c.model == model,
                table.c.candidate == candidate,
                table.c.champion.is_(None) if champion is None else table.c.champion == champion,
                table.c.kind == DecisionKind.GATE,
            )
            .order_by(table.c.id.desc())
        )
        with self._read() as connection:
            for row in connection.execute(query):
                if row.policy == dict(policy) and holdout_hash in (None, row.numbers.get("holdout_hash")):
                    return _decision(row)
        return None

    def pending_decisions(self) -> list[Decision]:
        """Passing gate decisions of finished runs, against today's champion, that nobody has acted on yet.

        A decision that was acted on has a promotion, or, where its roll-out failed, an incident naming its version.
        """
        tables = schema.decisions, schema.runs, schema.models, schema.promotions, schema.incidents
        decisions, runs, models, promotions, incidents = tables
        query = (
            decisions.select()
            .join(runs, runs.c.decision_id == decisions.c.id)
            .join(models, models.c.name == decisions.c.model)
            .where(
                decisions.c.verdict == Verdict.PROMOTE,
                decisions.c.champion.is_not_distinct_from(models.c.champion_version),
                ~sa.exists().where(promotions.c.decision_id == decisions.c.id),
                ~sa.exists().where(
                    incidents.c.model == decisions.c.model,
                    incidents.c.version == decisions.c.candidate,
                    incidents.c.kind == HistoryKind.ROLLOUT_FAILED,
                    incidents.c.created_at >= decisions.c.created_at,
                ),
                # A decision that any later move has overtaken stays so, even if its champion serves again one day.
                ~sa.exists().where(promotions.c.model == decisions.c.model, promotions.c.created_at > decisions.c.created_at),
            )
            .order_by(decisions.c.id)
        )
        with self._read() as connection:
            return [_decision(row) for row in connection.execute(query)]

    # --- history -----------------------------------------------------------------------------------------------------

    def add_incident(self, model: str, kind: HistoryKind, detail: str, version: int | None = None) -> None:
        """Put something that went wrong into the model's history."""
        with self._write() as connection:
            _champion(connection, model)
            connection.execute(
                schema.incidents.insert().values(model=model, version=version, kind=kind, detail=detail, created_at=_now())
            )

    def incidents(self, model: str, *, limit: int = PAGE) -> list[Incident]:
        """What went wrong, newest first."""
        with self._read() as connection:
            rows = connection.execute(_page(schema.incidents, model, limit, None))
            return [Incident(**row._mapping) for row in rows]

    def history(self, model: str, *, limit: int = PAGE) -> list[HistoryEntry]:
        """Promotions, refusals, failed runs and incidents as one story, newest first."""
        with self._read() as connection:
            decisions = {row.id: _decision(row) for row in connection.execute(_page(schema.decisions, model, limit * 2, None))}
            promotions = [_promotion(row) for row in connection.execute(_page(schema.promotions, model, limit, None))]
            incidents = [Incident(**row._mapping) for row in connection.execute(_page(schema.incidents, model, limit, None))]
            ended = schema.runs.select().where(
                schema.runs.c.model == model, schema.runs.c.state.in_([RunState.FAILED, RunState.CANCELLED])
            )
            runs = [as_run(row) for row in connection.execute(ended.order_by(schema.runs.c.created_at.desc()).limit(limit))]
        entries = []
        for promotion in promotions:
            decision = decisions.get(promotion.decision_id) or self.decision(promotion.decision_id)
            what = "rolled back" if promotion.kind is DecisionKind.ROLLBACK else "promoted"
            text = decision.sentence + (f" Reason: {decision.reason}" if decision.reason else "")
            details = {"previous": promotion.previous, "kind": promotion.kind, "decision_id": promotion.decision_id}
            entries.append(
                HistoryEntry(at=promotion.created_at, what=what, version=promotion.version, text=text, details=details)
            )
        for decision in decisions.values():
            if decision.verdict is not Verdict.PROMOTE:
                assert decision.created_at is not None
                entries.append(
                    HistoryEntry(
                        at=decision.created_at,
                        what="refused" if decision.verdict is Verdict.REJECT else "inconclusive",
                        version=decision.candidate,
                        text=decision.sentence,
                        details={"decision_id": decision.id},
                    )
                )
        for run in runs:
            assert run.finished_at is not None
            what = f"run {run.state}"
            text = f"Run {run.id}: {run.reason}"
            entries.append(HistoryEntry(at=run.finished_at, what=what, version=run.version, text=text))
        for incident in incidents:
            entries.append(
                HistoryEntry(at=incident.created_at, what=incident.kind, version=incident.version, text=incident.detail)
            )
        return sorted(entries, key=lambda entry: entry.at, reverse=True)[:limit]

    def _write(self) -> AbstractContextManager[sa.Connection]:
        return database.writing(self._engine)

    def _read(self) -> AbstractContextManager[sa.Connection]:
        return database.reading(self._engine)


def _now() -> datetime:
    return datetime.now(UTC)


def _name(version: int | None) -> str:
    return "nobody" if version is None else f"v{version}"


def _champion(connection: sa.Connection, model: str) -> Champion:
    row = connection.execute(schema.models.select().where(schema.models.c.name == model)).one_or_none()
    if row is None:
        raise database.unknown_model(connection, model)
    return Champion(version=row.champion_version, sequence=row.champion_sequence)


def _version(connection: sa.Connection, model: str, number: int) -> ModelVersion:
    table = schema.versions
    row = connection.execute(
        table.select().where(table.c.model == model, table.c.number == number, table.c.published)
    ).one_or_none()
    if row is None:
        last = connection.scalar(sa.select(sa.func.max(table.c.number)).where(table.c.model == model, table.c.published))
        known = f"its versions go from 1 to {last}" if last else "it has no versions yet"
        raise NotFound(f"{model} has no version {number}; {known}")
    return _model_version(row)


def _evaluation(connection: sa.Connection, model: str, version: int, holdout_hash: str) -> Evaluation | None:
    table = schema.evaluations
    row = connection.execute(
        table.select().where(table.c.model == model, table.c.version == version, table.c.holdout_hash == holdout_hash)
    ).one_or_none()
    return None if row is None else Evaluation(**row._mapping)


def _past_champions(connection: sa.Connection, model: str) -> set[int]:
    query = sa.select(schema.promotions.c.version).where(schema.promotions.c.model == model)
    return set(connection.scalars(query))


def _insert_decision(connection: sa.Connection, decision: Decision) -> int:
    inserted = connection.execute(
        schema.decisions.insert()
        .values(
            model=decision.model,
            candidate=decision.candidate,
            champion=decision.champion,
            kind=decision.kind,
            verdict=decision.verdict,
            sentence=decision.sentence,
            policy=dict(decision.policy),
            numbers=dict(decision.numbers),
            reason=decision.reason,
            created_at=_now(),
        )
        .returning(schema.decisions.c.id)
    )
    return int(inserted.scalar_one())


def _page(table: sa.Table, model: str, limit: int, before: int | None) -> sa.Select[Any]:
    query = table.select().where(table.c.model == model).order_by(table.c.id.desc()).limit(limit)
    return query if before is None else query.where(table.c.id < before)


def _model_version(row: sa.Row[Any]) -> ModelVersion:
    return ModelVersion(
        model=row.model,
        number=row.number,
        uri=row.uri,
        manifest_sha256=row.manifest_sha256,
        metrics=row.metrics,
        lineage=row.lineage,
        run_id=row.run_id,
        created_at=row.created_at,
    )


def _promotion(row: sa.Row[Any]) -> Promotion:
    return Promotion(**{**row._mapping, "kind": DecisionKind(row.kind)})


def _decision(row: sa.Row[Any]) -> Decision:
    return Decision(**{**row._mapping, "kind": DecisionKind(row.kind), "verdict": Verdict(row.verdict)})
