"""Training runs and matches as Ray jobs: submit, watch, cancel. Knows the job's command line, not what it does.

What became of a run is read from the registry; Ray's word counts only when a job ended without leaving its own.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from baton.artifacts.storage import Storage
from baton.errors import Conflict, NotReady
from baton.store.records import Run, RunState
from baton.store.registry import Registry

JUDGE_POLL_SECONDS = 0.25
SILENCE = timedelta(seconds=30)
"""How long a driver without a job in Ray may be silent before it counts as dead; it beats every five seconds."""

TERMINAL = (JobStatus.FAILED, JobStatus.STOPPED, JobStatus.SUCCEEDED)


class Jobs:
    """Methods block, `judge` excepted: call them from a thread."""

    def __init__(self, registry: Registry, storage: Storage, environment: Mapping[str, str]) -> None:
        """``environment``: what the job needs to find the registry and the storage."""
        self._registry = registry
        self._storage = storage
        self._environment = dict(environment)
        self._client: JobSubmissionClient | None = None

    def submit(self, run: Run) -> None:
        """Start the job of a queued run. A job that is there already is left alone: the run's id is the job's."""
        if self._status(run.id) is None:
            self._submit(run.id, "run", run.id)

    async def judge(self, model: str, version: int, timeout_s: float) -> None:
        """Have a match played, and wait until it is decided.

        Raises:
            NotReady: it did not end in time, or failed; with the job's last words.
        """
        job = f"judge-{model}-{version}-{uuid.uuid4().hex[:8]}"
        await asyncio.to_thread(self._submit, job, "judge", model, str(version))
        deadline = time.monotonic() + timeout_s
        while (status := await asyncio.to_thread(self._status, job)) not in TERMINAL:
            if time.monotonic() > deadline:
                await asyncio.to_thread(self._stop, job)
                raise NotReady(f"judging {model} v{version} took more than {timeout_s:.0f} s and was stopped")
            await asyncio.sleep(JUDGE_POLL_SECONDS)
        if status is not JobStatus.SUCCEEDED:
            raise NotReady(f"judging {model} v{version} failed: {await asyncio.to_thread(self._last_words, job)}")

    def cancel(self, run_id: str) -> Run:
        """End an active run now. Raises ``Conflict`` when it is over, ``NotFound`` when there is none."""
        run = self._registry.runs.get(run_id)
        if run.state.final:
            raise Conflict(f"run {run_id} is over: {run.state}")
        ended = self._registry.runs.finish(run_id, RunState.CANCELLED, reason="cancelled")
        if self._status(run_id) not in (None, *TERMINAL):
            self._stop(run_id)
        return ended

    def look_after(self, run: Run) -> None:
        """Bring an active run's record in line with its job: submit a forgotten one, end the record of a dead one."""
        status = self._status(run.id)
        if status is None and run.state is RunState.QUEUED:
            self._submit(run.id, "run", run.id)
        elif status is None and not _beats(run):
            self._end(run, "its job is gone: the Ray cluster was restarted")
        elif status in TERMINAL:
            self._end(run, f"its driver ended without a result: {self._last_words(run.id)}")

    def _end(self, run: Run, reason: str) -> None:
        with suppress(Conflict):  # it ended itself between our two looks
            self._registry.runs.finish(run.id, RunState.FAILED, reason=reason)
            self._storage.remove_run(run.id)

    def _stop(self, job: str) -> None:
        with suppress(RuntimeError, ConnectionError):  # over, or the cluster is gone: either way it runs no longer
            self._jobs().stop_job(job)

    def _submit(self, job: str, *arguments: str) -> None:
        # -P: a folder called training/ where the service was started must not stand in for ours.
        command = shlex.join([sys.executable, "-P", "-m", "training", *arguments])
        try:
            self._jobs().submit_job(
                entrypoint=command, submission_id=job, runtime_env={"env_vars": self._environment}, entrypoint_num_cpus=0
            )
        except Exception as error:
            if self._status(job) is None:
                raise NotReady(f"the Ray cluster did not take job {job}: {error}") from error

    def _status(self, job: str) -> JobStatus | None:
        """Ray's word on a job; None when it knows no such job."""
        try:
            return self._jobs().get_job_status(job)
        except (RuntimeError, ConnectionError) as error:
            if str(error).startswith("Request failed with status code 404"):
                return None
            raise NotReady(f"Ray's job server does not answer: {error}") from error

    def _last_words(self, job: str) -> str:
        """Ray's message and the last line of the driver's log."""
        try:
            info = self._jobs().get_job_info(job)
            lines = self._jobs().get_job_logs(job).split("\n")
        except (RuntimeError, ConnectionError) as error:
            return f"its log cannot be read: {error}"
        said = [line.strip() for line in lines if line.strip()]
        message = (info.message or str(info.status)).strip().partition("\n")[0]
        return f"{message} (exit code {info.driver_exit_code}; last line: {_message(said[-1]) if said else 'none'})"

    def _jobs(self) -> JobSubmissionClient:
        if self._client is None:
            try:
                # By address: left to itself, the client looks for a cluster and gives up when the machine runs several.
                self._client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
            except (ConnectionError, RuntimeError) as error:
                raise NotReady(f"Ray's job server does not answer: {error}") from error
        return self._client


def _message(line: str) -> str:
    """What a line of a log says: the message, where it is a JSON object."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(line)["message"])
    return line


def _beats(run: Run) -> bool:
    """Whether the run's driver showed a sign of life lately; one that was started by hand has no job in Ray."""
    return run.heartbeat_at is not None and datetime.now(UTC) - run.heartbeat_at < SILENCE
