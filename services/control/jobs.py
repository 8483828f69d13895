"""Runs and evaluations as Ray jobs: submit, watch, cancel. Knows the command line of the jobs, not what they do.

The result of a run is read from the registry. Ray's job status counts only if a job ended without writing a result.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import ray

from baton import logs
from baton.artifacts.storage import Storage
from baton.config.model_settings import ModelSettings
from baton.errors import Conflict, NotReady
from baton.store.records import Run, RunState
from baton.store.registry import Registry
from services.control.ownership import Ownership
from services.control.silence import SILENCE_SECONDS, Silence, signs_of_life

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JUDGE_POLL_SECONDS = 0.25
"""Pause between two looks at an evaluation job: short, because a user waits for the promotion."""

SUCCEEDED = "SUCCEEDED"
TERMINAL = ("FAILED", "STOPPED", SUCCEEDED)
"""Job states in which the job has ended. Ray's `JobStatus` is an enumeration of these strings."""

UNREACHABLE = (RuntimeError, OSError)
"""What Ray's job client raises if its server does not answer. The errors of requests, which it uses, are an ``OSError``."""


class Jobs:
    """Submits, watches and cancels jobs. All methods except `judge` and `evaluate` block: call them from a thread."""

    def __init__(
        self, registry: Registry, storage: Storage, environment: Mapping[str, str], ownership: Ownership, silence: Silence
    ) -> None:
        """``environment``: variables for the jobs, with the URLs of the registry and the storage if their nodes lack them."""
        self._registry = registry
        self._storage = storage
        self._environment = dict(environment)
        self._ownership = ownership
        self._silence = silence
        self._client: JobSubmissionClient | None = None

    def submit(self, run: Run) -> None:
        """Submit the job of a queued run of this cluster, unless it exists already (its id is the run's id)."""
        if run.owner == self._ownership.cluster and self._status(run.id) is None:
            self._submit(run.id, "run", run.id)

    async def judge(self, settings: ModelSettings, version: int, timeout_s: float, *, overtaken: bool = False) -> None:
        """Run a job in which the gate decides on a version, and wait for its end; the decision is then in the registry.

        Args:
            settings: of the model; the job must decide by the policy of the service that asks, whatever others have declared.
            overtaken: the version won, but another one took over first. The decision replaces that of its run.

        Raises:
            NotReady: the job took longer than ``timeout_s`` or failed; the message has the last line of its log.
        """
        await self._complete("judge", "judging", settings, version, timeout_s, *(["--overtaken"] if overtaken else []))

    async def evaluate(self, settings: ModelSettings, version: int, timeout_s: float) -> None:
        """Run a job that evaluates a version on the newest holdout, and wait for its end; the scores are then in the registry.

        Raises ``NotReady`` as `judge`.
        """
        await self._complete("evaluate", "evaluating", settings, version, timeout_s)

    async def _complete(
        self, command: str, doing: str, settings: ModelSettings, version: int, timeout_s: float, *options: str
    ) -> None:
        """Run a job about one version, and wait for its end. Raise ``NotReady`` as `judge`."""
        what = f"{doing} {settings.name} v{version}"
        job = f"{command}-{settings.name}-{version}-{uuid.uuid4().hex[:8]}"
        arguments = [command, settings.name, str(version), "--settings", settings.model_dump_json()]
        await asyncio.to_thread(self._submit, job, *arguments, *options)
        deadline = time.monotonic() + timeout_s
        while (status := await asyncio.to_thread(self._status, job)) not in TERMINAL:
            if time.monotonic() > deadline:
                await asyncio.to_thread(self._stop, job)
                raise NotReady(f"{what} took more than {timeout_s:.0f} s and was stopped")
            await asyncio.sleep(JUDGE_POLL_SECONDS)
        if status != SUCCEEDED:
            raise NotReady(f"{what} failed: {await asyncio.to_thread(self._outcome, job)}")

    def cancel(self, run_id: str) -> Run:
        """End an active run now. Raises ``Conflict`` if it is over, ``NotFound`` if it does not exist."""
        run = self._registry.runs.get(run_id)
        if run.state.final:
            raise Conflict(f"run {run_id} is over: {run.state}")
        ended = self._registry.runs.finish(run_id, RunState.CANCELLED, reason="cancelled")
        if self._status(run_id) not in (None, *TERMINAL):
            self._stop(run_id)
        return ended

    def log(self, run_id: str, lines: int) -> Sequence[str]:
        """Return the last lines of a run's log. None of a run of another cluster, or if Ray does not have it any more."""
        if self._registry.runs.get(run_id).owner != self._ownership.cluster:
            return ()
        try:
            content: str = self._job_client().get_job_logs(run_id)
        except (NotReady, *UNREACHABLE):
            return ()
        return content.splitlines()[-lines:]

    def active_runs(self) -> Sequence[Run]:
        """Return all active runs, whoever owns them, and note which of them gave a sign of life."""
        self._ownership.models()  # renews the leases: whoever sees the silence of others must be seen, too
        runs = self._registry.runs.list(active=True, limit=None)
        self._silence.look(signs_of_life(self._registry, runs, self._ownership.cluster))
        return runs

    def look_after(self, run: Run) -> None:
        """Make an active run agree with its job: submit a job that is missing, or mark the run as failed if its job died.

        Only Ray's cluster knows the job of a run. Runs of other clusters, and runs by hand, are ended by silence alone.
        """
        if run.owner != self._ownership.cluster:
            if self._silence.lasts(run.id):
                self._end(run, _silent(run))
            return
        status = self._status(run.id)
        if status is None and run.state is RunState.QUEUED:
            self._submit(run.id, "run", run.id)
        elif status is None and self._silence.lasts(run.id):
            self._end(run, "its job is gone from Ray, and its driver is silent")
        elif status in TERMINAL:
            self._end(run, f"its driver ended without a result: {self._outcome(run.id)}")

    def _end(self, run: Run, reason: str) -> None:
        with suppress(Conflict):  # it ended after we read its state
            self._registry.runs.finish(run.id, RunState.FAILED, reason=reason)
            self._storage.remove_run(run.id)

    def _stop(self, job: str) -> None:
        with suppress(*UNREACHABLE):  # it has ended, or the cluster is gone: either way it no longer runs
            self._job_client().stop_job(job)

    def _submit(self, job: str, *arguments: str) -> None:
        # -P: a folder called training/ in the working directory must not be imported instead of ours.
        command = shlex.join([sys.executable, "-P", "-m", "training", *arguments])
        try:
            self._job_client().submit_job(
                entrypoint=command, submission_id=job, runtime_env={"env_vars": self._environment}, entrypoint_num_cpus=0
            )
        except Exception as error:
            if self._status(job) is None:
                raise NotReady(f"the Ray cluster did not accept job {job}: {error}") from error

    def _status(self, job: str) -> str | None:
        """Return Ray's status of a job; None if Ray does not know the job."""
        try:
            return str(self._job_client().get_job_status(job).value)
        except UNREACHABLE as error:
            if str(error).startswith("Request failed with status code 404"):
                return None
            raise NotReady(f"Ray's job server does not answer: {error}") from error

    def _outcome(self, job: str) -> str:
        """Return Ray's message, the exit code and the last line of the driver's log."""
        try:
            info = self._job_client().get_job_info(job)
            lines = self._job_client().get_job_logs(job).split("\n")
        except UNREACHABLE as error:
            return f"its log cannot be read: {error}"
        lines = [line.strip() for line in lines if line.strip()]
        message = (info.message or str(info.status)).strip().partition("\n")[0]
        return f"{message} (exit code {info.driver_exit_code}; last line: {_message(lines[-1]) if lines else 'none'})"

    def _job_client(self) -> JobSubmissionClient:
        if self._client is None:
            # Only a job needs it, and a control plane that starts again after a crash must be there soon.
            from ray.job_submission import JobSubmissionClient

            try:
                # By address: without one, the client searches for a cluster, and fails if the machine runs several.
                self._client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
            except UNREACHABLE as error:
                raise NotReady(f"Ray's job server does not answer: {error}") from error
        return self._client


def _message(line: str) -> str:
    """Return the message of a log line that is a JSON object, and any other line without its time."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(line)["message"])
    return logs.without_stamp(line)


def _silent(run: Run) -> str:
    """Return why a run that is not this cluster's has ended."""
    if run.owner is None:
        return f"its driver sent no heartbeat for {SILENCE_SECONDS:.0f} s"
    what = "nobody was there to start it" if run.state is RunState.QUEUED else "its driver sent no heartbeat"
    return f"its Ray cluster ({run.owner}) is gone: for {SILENCE_SECONDS:.0f} s no control plane was there, and {what}"
