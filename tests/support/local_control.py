"""The real control plane over a real registry, with stand-ins where it would talk to Ray: jobs and replicas live here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from baton.artifacts.storage import Storage
from baton.config.file import BatonConfig
from baton.config.model_settings import GateSettings, ModelSettings
from baton.errors import BatonError
from baton.quality.trials import TrialCounts
from baton.store.records import Decision, ModelVersion, ReplicaState, Rollout
from baton.store.registry import Registry
from baton.tasks.classification import Classification
from services.control.jobs import SUCCEEDED, Jobs
from services.control.loops import Loops
from services.control.notices.notifier import Notifier
from services.control.ownership import Ownership
from services.control.plane import ControlPlane
from services.control.rollouts.driver import Rollouts
from services.control.rollouts.replicas import Answers, ReplicaCounts, Replicas
from services.control.silence import Silence
from tests.support.audit import fix_secret
from tests.support.database import migrated_registry
from training.judge.decision import Contender, decide_match
from training.judge.holdout import Holdout

HOLDOUT = "5f" * 32
TASK = Classification((), 32)
JUDGE = Holdout(
    hash=HOLDOUT,
    groups=np.arange(100, dtype=np.int32),
    fingerprints=[f"{row:064d}" for row in range(100)],
    parts={},
    labels=[("abcd"[row % 4],) for row in range(100)],
)
"""A holdout of 100 texts."""


class LocalReplicas(Replicas):
    """One replica of each model, ``r1``, that obeys at once; versions in ``broken`` cannot be loaded, for the reason given."""

    def __init__(self) -> None:
        self.broken: dict[int, str] = {}
        self.serving: dict[str, int] = {}
        self.measured: dict[str, TrialCounts] = {}
        """What the replica has measured in a trial, by model."""

    async def call(self, model: str, timeout_s: float, method: str, *arguments: Any) -> Answers:
        if method == "commit":
            self.serving[model], sequence = arguments
            return Answers(states=[self._state(model, sequence)])
        error = self.broken.get(arguments[0]) if method == "prepare" else None
        return Answers(states=[replace(self._state(model, 1 if model in self.serving else -1), error=error)])

    async def trials(self, model: str, timeout_s: float, rollout: Rollout) -> Mapping[str, TrialCounts]:
        return {"r1": self.measured.get(model, TrialCounts())}

    def count(self, model: str) -> ReplicaCounts:
        return ReplicaCounts(running=1, starting=0)

    def _state(self, model: str, sequence: int) -> ReplicaState:
        return ReplicaState(
            replica="r1",
            pid=1,
            version=self.serving.get(model),
            sequence=sequence,
            prepared=(),
            engine="stand-in",
            unlogged=0,
            error=None,
            unavailable=False,
        )


class LocalJobs(Jobs):
    """Jobs without Ray: matches are decided on the spot from stored scores, evaluations are real; ``on_run`` does a run."""

    def __init__(self, registry: Registry, storage: Storage, ownership: Ownership, silence: Silence) -> None:
        super().__init__(registry, storage, {}, ownership, silence)
        self.submitted: list[str] = []
        self.on_run: Callable[[str], None] = lambda run_id: None

    def _submit(self, job: str, *arguments: str) -> None:
        self.submitted.append(job)
        if arguments[0] == "judge":
            settings = ModelSettings.model_validate_json(arguments[4])
            of_run = "--overtaken" in arguments
            decide(self._registry, settings.name, int(arguments[2]), settings.gate, of_run=of_run)
        elif arguments[0] == "evaluate":
            from training import matches

            settings = ModelSettings.model_validate_json(arguments[4])
            matches.evaluate_newest(settings, int(arguments[2]), self._registry, self._storage)
        else:
            self.on_run(job)

    def _status(self, job: str) -> str | None:
        if job not in self.submitted:
            return None
        return SUCCEEDED if job.startswith(("judge-", "evaluate-")) else "RUNNING"

    def _job_client(self) -> Any:
        class Client:
            def stop_job(self, job: str) -> None: ...

            def get_job_logs(self, job: str) -> str:
                return f"first line of {job}\nlast line <b>of it</b>\n"

        return Client()


def register_at_once(control: LocalControl) -> None:
    """Let runs register their sources on the spot, as their jobs do."""

    from training import registration  # imports torch, which most tests of the control plane do not need
    from training.__main__ import _record_end

    def carry_out(run_id: str) -> None:
        control.registry.runs.start(run_id)
        with suppress(BatonError), _record_end(control.registry, run_id, conceal_data_errors=False):
            registration.register(run_id, control.registry, Storage(control.config.storage))

    control.jobs.on_run = carry_out


class LocalControl(ControlPlane):
    """`ControlPlane` of a ``cluster`` with local jobs and replicas. Its ``clock`` measures leases and silence."""

    def __init__(self, config: BatonConfig, cluster: str = "local", clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(config.model_dump(mode="json"), identify=lambda: cluster)
        models = [settings.name for settings in config.models]
        self.ownership = Ownership(self.registry, models, lambda: cluster, clock)
        self.jobs = self._jobs = LocalJobs(self.registry, Storage(config.storage), self.ownership, Silence(clock))
        self.replicas = LocalReplicas()
        self.rollouts = Rollouts(self.registry, self.replicas, self._models, lambda: cluster)


def loops_of(control: ControlPlane) -> Loops:
    """The background loops of a control plane, which do not run yet."""
    return Loops(
        lambda: control.config,
        control.registry,
        ownership=control.ownership,
        jobs=control._jobs,
        rollouts=control.rollouts,
        retrainer=control.retrainer,
        housekeeping=control.housekeeping,
        notifiers=[Notifier(receiver, control.registry) for receiver in control.config.notify],
    )


def configured(directory: Path, *models: str) -> BatonConfig:
    """A configuration with everything in ``directory``."""
    return BatonConfig.model_validate(
        {
            "storage": str(directory / "storage"),
            "database": f"sqlite:///{directory}/baton.db",
            "models": [
                {
                    "name": name,
                    "task": "classification",
                    "base_model": "tiny",
                    "data": {"train": "train.jsonl"},
                    "gate": {"min_f1": 0.5},
                }
                for name in models
            ],
        }
    )


def control_of(config: BatonConfig, cluster: str = "local", clock: Callable[[], float] = time.monotonic) -> LocalControl:
    """A control plane whose registry is migrated and knows the models."""
    migrated_registry(config.database).close()
    control = LocalControl(config, cluster, clock)
    fix_secret(config.database)
    for model in config.models:
        control.registry.declare_model(model.name, model.model_dump(mode="json"))
    return control


def publish(
    registry: Registry, model: str, right: int, run_id: str | None = None, *, feedback_until: int = 0, **metrics: Any
) -> ModelVersion:
    """A version that answers ``right`` of 100 holdout rows rightly. It has scores (also ``metrics``), and no files."""
    truth = np.arange(100) % 4
    predicted = np.where(np.arange(100) < right, truth, (truth + 1) % 4)
    statistics = np.stack([truth, predicted], axis=1).astype(np.int32)
    labels = ["a", "b", "c", "d"]
    f1 = TASK.measure({"labels": labels}, statistics).value()
    metrics = {"f1": f1, "accuracy": right / 100, "confusion": [[25]], "per_class": {}, "labels": labels, **metrics}
    number = registry.versions.reserve(model, run_id)
    version = registry.versions.publish(
        model,
        number,
        uri=f"/nowhere/{number}",
        manifest_sha256="a" * 64,
        metrics=metrics,
        lineage={
            "dataset": {"train_rows": 400, "holdout_hash": HOLDOUT, "feedback_until": feedback_until},
            "training": {"tune": "full"},
            "run_id": run_id,
            "labels": ["a", "b"],
        },
    )
    registry.evaluations.add(model, number, HOLDOUT, metrics, statistics)
    return version


def decide(
    registry: Registry, model: str, version: int, policy: GateSettings | None = None, *, of_run: bool = False
) -> Decision:
    """The gate's stored decision on ``version`` against today's champion; by default under the declared policy."""
    pointer = registry.champion(model)
    number = registry.matches.open(
        model, champion=pointer.version, candidate=version, holdout_hash=HOLDOUT, groups=JUDGE.fingerprints
    )
    judged = decide_match(
        TASK,
        JUDGE,
        contender(registry, model, version),
        None if pointer.version is None else contender(registry, model, pointer.version),
        pointer=pointer,
        number=number,
        policy=policy or GateSettings.model_validate(registry.settings(model)["gate"]),
    )
    return registry.add_decision(judged.decision, of_run=of_run)


def contender(registry: Registry, model: str, version: int) -> Contender:
    evaluation = registry.evaluations.get(model, version, HOLDOUT)
    assert evaluation is not None
    return Contender(evaluation=evaluation, labels=("a", "b", "c", "d"))
