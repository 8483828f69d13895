"""The registry: the models, the champion pointer of each, and the decisions that may move it.

The pointer moves only in `Registry.promote`. That method compares and swaps the pointer's sequence number, checks the stored
decision and appends the promotion, all in one transaction. Everything else that the database keeps is in the stores that a
registry holds (`Registry.versions`, `Registry.runs`, …). Knows neither tasks nor the artifact storage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from baton.errors import Conflict, NotFound
from baton.store import database, evaluation_store, renaming, rollout_store, schema, version_store, waiting_decisions
from baton.store.dataset_store import DatasetStore
from baton.store.evaluation_store import EvaluationStore
from baton.store.feedback.audit import AuditStore
from baton.store.feedback.predictions import PredictionStore
from baton.store.feedback.store import FeedbackStore
from baton.store.history import History
from baton.store.key_store import KeyStore
from baton.store.lease_store import LeaseStore
from baton.store.match_store import MatchStore
from baton.store.notice_store import NoticeStore
from baton.store.overview import OverviewStore
from baton.store.records import PAGE, Champion, Decision, DecisionKind, ModelVersion, Promotion, Rollout, RolloutState, Verdict
from baton.store.retrain_store import RetrainStore
from baton.store.rollout_store import RolloutStore
from baton.store.rows import as_decision, as_promotion, now, page
from baton.store.run_store import RunStore
from baton.store.version_store import VersionStore


class Registry:
    """One database of Baton: models, champion pointers and decisions here, everything else in one store for each subject.

    Thread-safe; every method is one transaction. Any method raises ``RegistryError`` if the database does not respond.
    """

    def __init__(self, url: str, *, wait_s: float = 0.0, read_only: bool = False) -> None:
        """Prepare a connection pool for ``url``; no connection is opened yet.

        ``wait_s``: how many seconds a call waits for a PostgreSQL server that is down before it raises ``RegistryError``.
        ``read_only``: every write is an error, and no database is created.
        """
        self._engine = database.connect(url, wait_s, read_only=read_only)
        self.runs = RunStore(self._engine)
        self.datasets = DatasetStore(self._engine)
        self.feedback = FeedbackStore(self._engine)
        self.predictions = PredictionStore(self._engine, read_only=read_only)
        self.versions = VersionStore(self._engine)
        self.evaluations = EvaluationStore(self._engine)
        self.audit = AuditStore(self._engine)
        self.matches = MatchStore(self._engine)
        self.history = History(self._engine)
        self.rollouts = RolloutStore(self._engine)
        self.retrain = RetrainStore(self._engine)
        self.overview = OverviewStore(self._engine)
        self.keys = KeyStore(self._engine)
        self.leases = LeaseStore(self._engine)
        self.notices = NoticeStore(self._engine)

    def migrate(self) -> None:
        """Create or upgrade the schema. Raises ``RegistryError`` if the schema is newer than this code."""
        from baton.store.migrations import upgrade  # here and below: loads Alembic, which only these calls need

        upgrade.migrate(self._engine)

    def check(self) -> None:
        """Raise ``RegistryError`` unless the database responds and has this code's schema."""
        from baton.store.migrations import upgrade

        upgrade.check(self._engine)

    def clock(self) -> datetime:
        """Return the database's own time; a server's may differ from this machine's."""
        with self._read() as connection:
            now_there: datetime = connection.execute(sa.select(database.time(connection))).scalar_one()
        return now_there

    def is_empty(self) -> bool:
        """Return whether the database has no schema yet, and therefore no data."""
        from baton.store.migrations import upgrade

        return upgrade.is_empty(self._engine)

    def close(self) -> None:
        """Close all pooled connections."""
        self._engine.dispose()

    # --- models and their champion -----------------------------------------------------------------------------------

    def declare_model(self, name: str, settings: Mapping[str, Any] | None = None) -> None:
        """Register model ``name`` unless it is known. ``settings`` (from `baton.yaml`) replace the stored ones, if given."""
        table = schema.models
        with self._write() as connection:
            new = database.insert(connection, table).values(name=name, settings=settings or {}, created_at=now())
            connection.execute(new.on_conflict_do_nothing())
            if settings is not None:
                connection.execute(table.update().where(table.c.name == name).values(settings=settings))

    def check_rename(self, old: str, new: str) -> dict[str, int]:
        """Return what `rename` would move, as numbers by names: versions, runs, …. Raise as it would. Nothing changes."""
        with self._write() as connection:
            renaming.check(connection, old, new)
        with self._read() as connection:
            return renaming.count(connection, old)

    def rename(self, old: str, new: str, said: str) -> None:
        """Give a model another name, with all that belongs to it but its files. ``said`` goes into its history.

        Raises:
            NotFound: there is no model ``old``.
            Conflict: it has an active run or roll-out, or there is a model ``new`` already.
        """
        with self._write() as connection:
            renaming.rename(connection, old, new, said)

    def settings(self, name: str) -> Mapping[str, Any]:
        """Return the settings of a model as last declared. Raises ``NotFound``."""
        with self._read() as connection:
            _champion(connection, name)
            row = connection.execute(sa.select(schema.models.c.settings).where(schema.models.c.name == name)).one()
        settings: Mapping[str, Any] = row.settings
        return settings

    def declared(self) -> dict[str, Mapping[str, Any]]:
        """Return all models ever declared, with their settings as last declared. They need not be in today's `baton.yaml`."""
        with self._read() as connection:
            rows = connection.execute(sa.select(schema.models.c.name, schema.models.c.settings))
            return {row.name: row.settings for row in rows}

    def declared_at(self, name: str) -> datetime:
        """Return when a model was first declared. Raises ``NotFound``."""
        with self._read() as connection:
            _champion(connection, name)
            stamp: datetime = connection.execute(
                sa.select(schema.models.c.created_at).where(schema.models.c.name == name)
            ).scalar_one()
        return stamp

    def champion(self, model: str) -> Champion:
        """Return the champion pointer of ``model``. Raises ``NotFound``."""
        with self._read() as connection:
            return _champion(connection, model)

    def champion_version(self, model: str) -> ModelVersion | None:
        """Return the champion, or None before the first promotion. Raises ``NotFound`` for an unknown model."""
        champion = self.champion(model)
        return None if champion.version is None else self.versions.get(model, champion.version)

    def promote(self, decision: Decision, expected: Champion, rollout: Rollout | None = None) -> Promotion:
        """Make ``decision.candidate`` the champion, if the pointer still equals ``expected``.

        A gate decision must already be stored (`add_decision`), must allow the promotion, and must have compared the candidate
        with the champion in ``expected``. Decisions to force or to roll back may be stored here, in the same transaction.
        ``rollout``, which leads to this move, is committing from then on.

        Raises:
            Conflict: the pointer has moved since ``expected`` was read, the decision does not allow this move, or the roll-out
                is no longer in the state that the caller saw.
            NotFound: the version is not published.
        """
        model, version = decision.model, decision.candidate
        with self._write() as connection:
            version_store.find(connection, model, version)
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
            if (decision.champion, decision.champion_sequence) != (expected.version, expected.sequence):
                raise Conflict(
                    f"{model}: this decision is against {_name(decision.champion)} (move {decision.champion_sequence}), "
                    f"but the champion is {_name(expected.version)} (move {expected.sequence}); decide again"
                )
            decision_id = self._admit(connection, decision)
            if rollout is not None:
                rollout_store.advance(connection, rollout, RolloutState.COMMITTING)
            row = connection.execute(
                schema.promotions.insert()
                .values(
                    model=model,
                    sequence=expected.sequence + 1,
                    version=version,
                    previous=expected.version,
                    decision_id=decision_id,
                    kind=decision.kind,
                    created_at=now(),
                )
                .returning(schema.promotions)
            ).one()
        return as_promotion(row)

    def _admit(self, connection: sa.Connection, decision: Decision) -> int:
        """Return the id of the stored decision that allows this move. Raises ``Conflict`` if none does."""
        if decision.kind is DecisionKind.GATE:
            stored = connection.execute(schema.decisions.select().where(schema.decisions.c.id == decision.id)).one_or_none()
            if stored is None:
                raise Conflict("a gate decision must be stored before it can promote")
            found = as_decision(stored)
            if _move(found) != _move(decision):
                raise Conflict(f"decision {found.id} is about another move")
            if found.kind is not DecisionKind.GATE or found.verdict is not Verdict.PROMOTE:
                raise Conflict(f"decision {found.id} does not allow a promotion: {found.verdict}")
            compared = found.numbers.get("compared", True)
            for version in filter(None, (found.candidate, found.champion if compared else None)):
                if evaluation_store.find(connection, found.model, version, str(found.numbers.get("holdout_hash"))) is None:
                    raise Conflict(f"decision {found.id}: v{version} has no evaluation on its holdout")
            assert found.id is not None
            return found.id
        if not (decision.reason or "").strip():
            raise Conflict(f"a {decision.kind} needs a reason")
        if decision.kind is DecisionKind.ROLLBACK and decision.candidate not in _past_champions(connection, decision.model):
            raise Conflict(f"v{decision.candidate} has never been champion of {decision.model}; use promote")
        return _insert_decision(connection, decision) if decision.id is None else decision.id

    def past_champions(self, model: str) -> set[int]:
        """Return the numbers of all versions that have ever been champion."""
        with self._read() as connection:
            return _past_champions(connection, model)

    def previous_champion(self, model: str) -> int | None:
        """Return the version that a rollback restores, or None if there is none.

        It is the champion before the current one. Promotions that a rollback has undone do not count: after v1, v2, v3 and a
        rollback to v2, the next rollback restores v1.
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
        """Return moves of the pointer, newest first. For the next page, pass the last promotion's id as ``before``."""
        with self._read() as connection:
            return [as_promotion(row) for row in connection.execute(page(schema.promotions, model, limit, before))]

    def promotion_by(self, decision_id: int) -> Promotion | None:
        """Return the newest move that a decision led to, or None."""
        table = schema.promotions
        query = table.select().where(table.c.decision_id == decision_id).order_by(table.c.id.desc()).limit(1)
        with self._read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else as_promotion(row)

    def moves(self, model: str) -> dict[int, list[DecisionKind]]:
        """Return how each version that ever was champion became it, oldest move first."""
        table = schema.promotions
        query = sa.select(table.c.version, table.c.kind).where(table.c.model == model).order_by(table.c.sequence)
        found: dict[int, list[DecisionKind]] = {}
        with self._read() as connection:
            for row in connection.execute(query):
                found.setdefault(row.version, []).append(DecisionKind(row.kind))
        return found

    def rolled_back(self, model: str) -> set[int]:
        """Return the versions that a rollback took out of service, at any time."""
        table = schema.promotions
        moved = (table.c.model == model, table.c.kind == DecisionKind.ROLLBACK, table.c.previous.is_not(None))
        with self._read() as connection:
            return set(connection.scalars(sa.select(table.c.previous).where(*moved)))

    # --- decisions -----------------------------------------------------------------------------------------------------

    def add_decision(self, decision: Decision, *, of_run: bool = False) -> Decision:
        """Store a decision, whatever its verdict, and return it with its id.

        ``of_run``: it replaces the decision of the run that made the candidate, and is carried out as that would have been.
        Raises ``NotFound``.
        """
        runs = schema.runs
        with self._write() as connection:
            _champion(connection, decision.model)
            decision_id = _insert_decision(connection, decision)
            if of_run:
                candidate = version_store.find(connection, decision.model, decision.candidate)
                connection.execute(runs.update().where(runs.c.id == candidate.run_id).values(decision_id=decision_id))
            return as_decision(connection.execute(schema.decisions.select().where(schema.decisions.c.id == decision_id)).one())

    def decision(self, decision_id: int) -> Decision:
        """Return one stored decision. Raises ``NotFound``."""
        with self._read() as connection:
            row = connection.execute(schema.decisions.select().where(schema.decisions.c.id == decision_id)).one_or_none()
        if row is None:
            raise NotFound(f"no decision {decision_id}")
        return as_decision(row)

    def verdicts(self, decision_ids: Collection[int]) -> dict[int, Verdict]:
        """Return the verdicts of stored decisions by their ids."""
        table = schema.decisions
        query = sa.select(table.c.id, table.c.verdict).where(table.c.id.in_(decision_ids))
        with self._read() as connection:
            return {row.id: Verdict(row.verdict) for row in connection.execute(query)}

    def gate_decision(
        self,
        model: str,
        candidate: int,
        champion: int | None,
        policy: Mapping[str, Any],
        *,
        holdout_hash: str | None = None,
        marks_hash: str = "",
    ) -> Decision | None:
        """Return the newest decision of the gate on this candidate, champion and policy, or None if there is none.

        It may be about an earlier move of the pointer, before a rollback to the same champion.

        ``holdout_hash``: consider only decisions on this holdout, with the groups and slices of ``marks_hash``
        (`DatasetVersion`); None: on any holdout.
        """
        table = schema.decisions
        query = (
            table.select()
            .where(
                table.c.model == model,
                table.c.candidate == candidate,
                table.c.champion.is_not_distinct_from(champion),
                table.c.kind == DecisionKind.GATE,
            )
            .order_by(table.c.id.desc())
        )
        with self._read() as connection:
            for row in connection.execute(query):
                judge = (row.numbers.get("holdout_hash"), row.numbers.get("marks_hash", ""))
                if row.policy == dict(policy) and (holdout_hash is None or judge == (holdout_hash, marks_hash)):
                    return as_decision(row)
        return None

    def newest_gate_decision(self, model: str, candidate: int) -> Decision | None:
        """Return the newest decision of the gate on a version, or None if it was not judged."""
        table = schema.decisions
        here = (table.c.model == model, table.c.candidate == candidate, table.c.kind == DecisionKind.GATE)
        with self._read() as connection:
            row = connection.execute(table.select().where(*here).order_by(table.c.id.desc()).limit(1)).one_or_none()
        return None if row is None else as_decision(row)

    def newest_gate_decisions(self, model: str, candidates: Collection[int]) -> dict[int, Decision]:
        """Return what `newest_gate_decision` returns for each of some versions, by number. Those without one are left out."""
        table = schema.decisions
        here = (table.c.model == model, table.c.candidate.in_(candidates), table.c.kind == DecisionKind.GATE)
        newest = sa.select(sa.func.max(table.c.id)).where(*here).group_by(table.c.candidate)
        with self._read() as connection:
            found = map(as_decision, connection.execute(table.select().where(table.c.id.in_(newest))))
            return {decision.candidate: decision for decision in found}

    def pending_decisions(self) -> list[Decision]:
        """Return decisions of runs that wait to be carried out (`waiting_decisions.pending`), the largest gain first."""
        with self._read() as connection:
            return waiting_decisions.pending(connection)

    def overtaken_decisions(self) -> list[Decision]:
        """Return decisions of runs whose version must be judged again (`waiting_decisions.overtaken`)."""
        with self._read() as connection:
            return waiting_decisions.overtaken(connection)

    def _write(self) -> AbstractContextManager[sa.Connection]:
        return database.writing(self._engine)

    def _read(self) -> AbstractContextManager[sa.Connection]:
        return database.reading(self._engine)


def _move(decision: Decision) -> tuple[str, int, int | None, int]:
    """Return the move of the pointer that a decision is about."""
    return decision.model, decision.candidate, decision.champion, decision.champion_sequence


def _name(version: int | None) -> str:
    return "no version" if version is None else f"v{version}"


def _champion(connection: sa.Connection, model: str) -> Champion:
    """Return the pointer of ``model``. Raises ``NotFound`` for an unknown model."""
    row = connection.execute(schema.models.select().where(schema.models.c.name == model)).one_or_none()
    if row is None:
        raise database.unknown_model(connection, model)
    return Champion(version=row.champion_version, sequence=row.champion_sequence)


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
            champion_sequence=decision.champion_sequence,
            kind=decision.kind,
            verdict=decision.verdict,
            sentence=decision.sentence,
            policy=dict(decision.policy),
            numbers=dict(decision.numbers),
            reason=decision.reason,
            created_at=now(),
        )
        .returning(schema.decisions.c.id)
    )
    return int(inserted.scalar_one())
