"""`baton demo`: the whole loop on bundled samples with three models, step by step, with the numbers that it measured.

The command line starts and stops the service, the HTTP API does the rest.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from baton.errors import NotReady
from baton.store.records import RunStage, RunState
from baton.wording import counted
from services.client import Client
from services.demo.models import CORRUPTED, MODELS, DemoModel, write_home
from services.demo.traffic import Exchange, Traffic, failed, latency_ms, stale
from services.tables import show, show_predictions, show_runs

CONCURRENCY = 8
BEFORE, AFTER = 50, 100
"""How many requests must be answered before a hand-over starts, and after it has returned."""

AFTER_TRAINING = (RunStage.EVALUATING, RunStage.PUBLISHING, RunStage.DECIDING)
"""Stages of a run after training. Load that starts in one of them runs during the hand-over."""

POLL_SECONDS = 0.2
PREFERRED_PORT = 8000


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """A change of the champion while requests were sent."""

    name: str
    exchanges: list[Exchange]
    """The requests sent before, during and after it."""
    stale: int
    """How many requests that were sent after it were answered by another version."""


@dataclass
class Demo:
    """One execution of the demo: where it runs, and what it has measured so far."""

    out: Console
    client: Client
    home: Path
    """The directory with its configuration and all of its files."""
    inputs: dict[str, list[Any]]
    """For each model, the inputs of its holdout rows, which the load sends."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by what it was spent on."""
    hand_overs: list[HandOver] = field(default_factory=list)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the wall time of a ``with`` block to ``seconds[name]``."""
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add ``seconds`` to ``seconds[name]``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def print(self, text: str) -> None:
        """Print a line."""
        self.out.print(text, highlight=False)

    def load(self, model: str) -> Traffic:
        """Return a load on ``model`` that runs during a ``with`` block."""
        return Traffic(f"{self.client.url}/models/{model}", self.inputs[model], CONCURRENCY)


def run_demo(out: Console, *, keep: bool) -> None:
    """Run all steps in a new directory. Unless ``keep``, stop the service and remove the directory.

    A directory whose demo failed is kept.

    Raises:
        NotReady: a step did not end as it must.
    """
    home = Path(tempfile.mkdtemp(prefix="baton-demo-"))
    port = _free_port()
    demo = Demo(out=out, client=Client(f"http://127.0.0.1:{port}"), home=home, inputs=write_home(home, port))
    out.rule("Baton: serve, fine-tune, evaluate, hot-swap")
    demo.print(
        f"Working in {home}; nothing outside it is changed. Nothing below is simulated: it is Ray Serve, Ray Train and HTTP."
    )
    completed = False
    # A time limit, a container that stops, or the end of the terminal ends the demo as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with demo.timed("start service"):
            _baton(home, "up", "--detach")
        _first_champions(demo)
        _better_versions(demo)
        _bad_versions(demo)
        _roll_back_and_promote(demo)
        _summary(demo)
        completed = True
        if keep:
            demo.print(f"\nThe service keeps running: {demo.client.url}/docs   To stop it: baton down -c {home / 'baton.yaml'}")
    finally:
        if not keep:
            with demo.timed("stop service"):
                _baton(home, "down")
            if completed:
                shutil.rmtree(home, ignore_errors=True)
            else:
                demo.print(f"Its files, including the logs, are kept in {home}.")
    if not keep:
        demo.print("The service has stopped; no process is left.")


def _first_champions(demo: Demo) -> None:
    demo.out.rule("Step 1: train the first versions, each on a third of its data")
    for model in MODELS:
        _expect(_train(demo, model, f"data.train={demo.home / model.name / 'third.jsonl'}"), serving=True)
        options: dict[str, Any] = {"top_k": 3} if model.task == "classification" else {}
        answer = demo.client.predict(model.name, [model.question], **options)
        demo.out.print(show_predictions.predictions(model.task, [model.question], answer))


def _better_versions(demo: Demo) -> None:
    demo.out.rule("Step 2: train on all of the data; swap versions under load")
    for model in MODELS:
        _expect(_train(demo, model, load=True), serving=True)
        if model.task != "classification":
            answer = demo.client.predict(model.name, [model.question])
            demo.out.print(show_predictions.predictions(model.task, [model.question], answer))


def _bad_versions(demo: Demo) -> None:
    demo.out.rule(f"Step 3: train on data with {CORRUPTED:.0%} wrong labels; the gate must refuse")
    for model in MODELS:
        _expect(_train(demo, model, f"data.train={demo.home / model.name / 'corrupted.jsonl'}"), serving=False)
        champion = demo.client.get(f"/api/models/{model.name}")["champion"]
        demo.print(f"Champion of {model.name} is still v{champion}.")


def _roll_back_and_promote(demo: Demo) -> None:
    demo.out.rule("Step 4: roll back, then promote again, under load")
    with demo.timed("swaps"):
        for model in MODELS:
            for name, path, body, version in (
                ("rollback to v1", "rollback", {"reason": "the demo shows a rollback"}, 1),
                ("promotion of v2", "promotions", {"version": 2}, 2),
            ):
                with demo.load(model.name) as traffic:
                    _until_answered(traffic, BEFORE)
                    answer = demo.client.post(f"/api/models/{model.name}/{path}", body)
                    returned = time.perf_counter()
                    _until_answered(traffic, AFTER)
                demo.out.print(show.decision(answer["decision"]))
                _record_hand_over(demo, f"{model.name}: {name}", traffic.exchanges, version, returned)


def _train(demo: Demo, model: DemoModel, *assignments: str, load: bool = False) -> dict[str, Any]:
    """Train ``model`` and wait until the run ends. Return the run, with ``rolled_out`` if its version serves.

    With ``load``, requests are sent from its evaluation until after its version serves.
    """
    demo.print(f"[bold]{model.name}[/] ({model.task})")
    began = time.perf_counter()
    run: dict[str, Any] = demo.client.post(f"/api/models/{model.name}/runs", {"set": list(assignments)})
    traffic: Traffic | None = None
    with ExitStack() as load_until_here, show_runs.progress(demo.out, quiet=False) as update:
        while not RunState(run["state"]).final:
            time.sleep(POLL_SECONDS)
            run = demo.client.get(f"/api/runs/{run['id']}")
            update(run)
            if load and traffic is None and run["stage"] in AFTER_TRAINING:
                traffic = load_until_here.enter_context(demo.load(model.name))
        if run["decision"] and run["decision"]["verdict"] == "promote":
            _until(lambda: _serves(demo, model.name, run["version"]))
            run["rolled_out"] = True
        returned = time.perf_counter()
        if traffic is not None:
            _until_answered(traffic, AFTER)
    if traffic is not None and run.get("rolled_out"):
        _record_hand_over(demo, f"{model.name}: v{run['version']} took over", traffic.exchanges, run["version"], returned)
    demo.out.print(show_runs.verdict(run))
    if run["version"] is not None:
        stages = demo.client.get(f"/api/models/{model.name}/versions/{run['version']}")["lineage"]["seconds"]
        for stage, seconds in stages.items():
            demo.add(stage, seconds)
        demo.add("start jobs, evaluate, roll out", time.perf_counter() - began - sum(stages.values()))
    return run


def _record_hand_over(demo: Demo, name: str, exchanges: list[Exchange], version: int, returned: float) -> None:
    hand_over = HandOver(name=name, exchanges=exchanges, stale=stale(exchanges, version, returned))
    demo.hand_overs.append(hand_over)
    demo.print(
        f"{name}: {len(exchanges)} requests; {failed(exchanges)} failed; "
        f"{hand_over.stale} sent after the hand-over were answered by another version."
    )


def _summary(demo: Demo) -> None:
    demo.out.rule("Summary")
    table = Table("model", "version", "F1", "95% interval", "decision", box=None, header_style="bold", pad_edge=False)
    for model in MODELS:
        for item in reversed(demo.client.get(f"/api/models/{model.name}/runs")["items"]):
            decision = demo.client.get(f"/api/runs/{item['id']}")["decision"]
            low, high = decision["numbers"]["f1_interval"]
            f1 = decision["numbers"]["f1"]
            table.add_row(model.name, f"v{item['version']}", f"{f1:.4f}", f"{low:.3f} – {high:.3f}", decision["sentence"])
    demo.out.print(table)
    table = Table("hand-over", "requests", "failed", "stale", "p50", "p99", box=None, header_style="bold", pad_edge=False)
    for hand_over in demo.hand_overs:
        counts = (len(hand_over.exchanges), failed(hand_over.exchanges), hand_over.stale)
        p50, p99 = (latency_ms(hand_over.exchanges, share) for share in (0.5, 0.99))
        table.add_row(hand_over.name, *map(str, counts), f"{p50:.0f} ms", f"{p99:.0f} ms")
    demo.out.print(table)
    demo.print("Seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in demo.seconds.items()))
    lost = sum(failed(hand_over.exchanges) + hand_over.stale for hand_over in demo.hand_overs)
    if lost:
        raise NotReady(f"{counted(lost, 'request')} failed or got an answer of the wrong version during the hand-overs")


def _expect(run: dict[str, Any], *, serving: bool) -> None:
    """Raise ``NotReady`` unless the run succeeded and its version serves (``serving``) or was not promoted."""
    if run["state"] != "succeeded" or bool(run.get("rolled_out")) != serving:
        wanted = "take over" if serving else "be refused"
        verdict = run["decision"]["verdict"] if run["decision"] else run["reason"]
        raise NotReady(f"the version of this step should {wanted}, but run {run['id']} ended as {run['state']}: {verdict}")


def _serves(demo: Demo, model: str, version: int) -> bool:
    status = demo.client.get(f"/api/models/{model}")
    return status["champion"] == version and not status["rollout"]


def _until_answered(traffic: Traffic, more: int) -> None:
    wanted = len(traffic.exchanges) + more
    _until(lambda: len(traffic.exchanges) > wanted)


def _until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotReady(f"the expected state was not reached within {timeout_s:.0f} s")
        time.sleep(POLL_SECONDS / 4)


def _baton(home: Path, command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "services.cli", command, *arguments, "-c", str(home / "baton.yaml")],
        check=False,
        env={key: value for key, value in os.environ.items() if not key.startswith("BATON_") and key != "RAY_ADDRESS"},
    )
    if done.returncode != 0:
        raise NotReady(f"`baton {command}` failed (exit status {done.returncode})")


def _free_port() -> int:
    """Return `PREFERRED_PORT` if it is free, else any free port."""
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NotReady("this machine has no free port")
