"""`baton demo`: the whole loop on the bundled samples, three models at once, told act by act with the numbers it measured.

Uses the product as a user does: the command line starts and stops it, the HTTP API does the rest.
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
from services.cli import show
from services.client import Client
from services.demo.models import CORRUPTED, MODELS, DemoModel, write_home
from services.demo.traffic import Exchange, Traffic, failed, latency_ms, stale

CONCURRENCY = 8
BEFORE, AFTER = 50, 100
"""Requests answered before a hand-over starts, and after it has returned."""

JUDGING = ("evaluating", "publishing", "deciding")
"""Stages of a run after training: load in them meets the hand-over."""

POLL_SECONDS = 0.2
PREFERRED_PORT = 8000


@dataclass
class Story:
    """What the demo has seen so far."""

    out: Console
    client: Client
    home: Path
    inputs: dict[str, list[Any]]
    """Each model's holdout inputs, for load."""
    seconds: dict[str, float] = field(default_factory=dict)
    swaps: list[tuple[str, list[Exchange], int]] = field(default_factory=list)
    """Name, requests during it, and how many sent after the hand-over were answered by another version."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's wall time to ``seconds[name]``."""
        began = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Add to ``seconds[name]``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def say(self, text: str) -> None:
        """A line of the story."""
        self.out.print(text, highlight=False)

    def load(self, model: str) -> Traffic:
        """Requests to ``model``, for as long as a ``with`` block lasts."""
        return Traffic(f"{self.client.url}/models/{model}", self.inputs[model], CONCURRENCY)


def play(out: Console, *, keep: bool) -> None:
    """All acts, from an empty directory to one that is gone again. Raises ``NotReady`` when an act ends as it must not."""
    home = Path(tempfile.mkdtemp(prefix="baton-demo-"))
    port = _free_port()
    story = Story(out=out, client=Client(f"http://127.0.0.1:{port}"), home=home, inputs=write_home(home, port))
    out.rule("Baton: serve, fine-tune, judge, hot-swap")
    story.say(f"Working in {home}; nothing outside it is touched. Everything below really happens: Ray Serve, Ray Train, HTTP.")
    told = False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a time limit or a container that stops: as by Ctrl-C
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with story.timed("start service"):
            _baton(home, "up", "--detach")
        _first_champions(story)
        _better_versions(story)
        _bad_versions(story)
        _back_and_forth(story)
        _summary(story)
        told = True
        if keep:
            story.say(f"\nStill running: {story.client.url}/docs   stop it: baton down -c {home / 'baton.yaml'}")
    finally:
        if not keep:
            with story.timed("stop service"):
                _baton(home, "down")
            if told:
                shutil.rmtree(home, ignore_errors=True)
            else:
                story.say(f"Its files, logs among them, are left in {home}.")
    if not keep:
        story.say("Stopped; nothing is left running.")


def _first_champions(story: Story) -> None:
    story.out.rule("Act 1: first versions, each from a third of its data")
    for model in MODELS:
        _expect(_run(story, model, f"data.train={story.home / model.name / 'third.jsonl'}"), serving=True)
        few: dict[str, Any] = {"top_k": 3} if model.task == "classification" else {}
        answer = story.client.predict(model.name, [model.question], **few)
        story.out.print(show.predictions(model.task, [model.question], answer))


def _better_versions(story: Story) -> None:
    story.out.rule("Act 2: all of the data, swapped in while a load runs")
    for model in MODELS:
        _expect(_run(story, model, load=True), serving=True)
        if model.task != "classification":
            answer = story.client.predict(model.name, [model.question])
            story.out.print(show.predictions(model.task, [model.question], answer))


def _bad_versions(story: Story) -> None:
    story.out.rule(f"Act 3: {CORRUPTED:.0%} of the rows have wrong labels; the gate must refuse")
    for model in MODELS:
        _expect(_run(story, model, f"data.train={story.home / model.name / 'corrupted.jsonl'}"), serving=False)
        champion = story.client.get(f"/api/models/{model.name}")["champion"]
        story.say(f"Champion of {model.name} is still v{champion}.")


def _back_and_forth(story: Story) -> None:
    story.out.rule("Act 4: roll back, and forward again, under load")
    with story.timed("swaps"):
        for model in MODELS:
            for name, path, body, version in (
                ("rollback to v1", "rollback", {"reason": "the demo shows a rollback"}, 1),
                ("promotion of v2", "promotions", {"version": 2}, 2),
            ):
                with story.load(model.name) as traffic:
                    _until_answered(traffic, BEFORE)
                    answer = story.client.post(f"/api/models/{model.name}/{path}", body)
                    returned = time.perf_counter()
                    _until_answered(traffic, AFTER)
                story.out.print(show.decision(answer["decision"]))
                _note_swap(story, f"{model.name}: {name}", traffic.exchanges, version, returned)


def _run(story: Story, model: DemoModel, *assignments: str, load: bool = False) -> dict[str, Any]:
    """A training run watched to its end; with ``load``, requests are sent from its evaluation until its version serves."""
    story.say(f"[bold]{model.name}[/] ({model.task})")
    began = time.perf_counter()
    run: dict[str, Any] = story.client.post(f"/api/models/{model.name}/runs", {"set": list(assignments)})
    traffic: Traffic | None = None
    with ExitStack() as ending, show.progress(story.out, quiet=False) as update:
        while run["state"] in ("queued", "running"):
            time.sleep(POLL_SECONDS)
            run = story.client.get(f"/api/runs/{run['id']}")
            update(run)
            if load and traffic is None and run["stage"] in JUDGING:
                traffic = ending.enter_context(story.load(model.name))
        if run["decision"] and run["decision"]["verdict"] == "promote":
            _until(lambda: _serves(story, model.name, run["version"]))
            run["rolled_out"] = True
        returned = time.perf_counter()
        if traffic is not None:
            _until_answered(traffic, AFTER)
    if traffic is not None and run.get("rolled_out"):
        _note_swap(story, f"{model.name}: v{run['version']} took over", traffic.exchanges, run["version"], returned)
    story.out.print(show.verdict(run))
    if run["version"] is not None:
        stages = story.client.get(f"/api/models/{model.name}/versions/{run['version']}")["lineage"]["seconds"]
        for stage, seconds in stages.items():
            story.add(stage, seconds)
        story.add("start jobs, judge, roll out", time.perf_counter() - began - sum(stages.values()))
    return run


def _note_swap(story: Story, name: str, exchanges: list[Exchange], version: int, returned: float) -> None:
    wrong = stale(exchanges, version, returned)
    story.swaps.append((name, exchanges, wrong))
    story.say(
        f"{name}: {len(exchanges)} requests sent meanwhile, {failed(exchanges)} failed, "
        f"{wrong} sent after the hand-over and answered by another version."
    )


def _summary(story: Story) -> None:
    story.out.rule("What happened")
    table = Table("model", "version", "F1", "95% interval", "decision", box=None, header_style="bold", pad_edge=False)
    for model in MODELS:
        for item in reversed(story.client.get(f"/api/models/{model.name}/runs")["items"]):
            decision = story.client.get(f"/api/runs/{item['id']}")["decision"]
            low, high = decision["numbers"]["f1_interval"]
            f1 = decision["numbers"]["f1"]
            table.add_row(model.name, f"v{item['version']}", f"{f1:.4f}", f"{low:.3f} – {high:.3f}", decision["sentence"])
    story.out.print(table)
    swaps = Table("hand-over", "requests", "failed", "stale", "p50", "p99", box=None, header_style="bold", pad_edge=False)
    for name, exchanges, wrong in story.swaps:
        p50, p99 = latency_ms(exchanges, 0.5), latency_ms(exchanges, 0.99)
        swaps.add_row(name, str(len(exchanges)), str(failed(exchanges)), str(wrong), f"{p50:.0f} ms", f"{p99:.0f} ms")
    story.out.print(swaps)
    story.say("Seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in story.seconds.items()))
    lost = sum(failed(exchanges) + wrong for _, exchanges, wrong in story.swaps)
    if lost:
        raise NotReady(f"{lost} request(s) failed or were answered by the wrong version during the hand-overs")


def _expect(run: dict[str, Any], *, serving: bool) -> None:
    """Raise ``NotReady`` unless the run ended, and its version serves, or was refused, as this act needs."""
    if run["state"] != "succeeded" or bool(run.get("rolled_out")) != serving:
        wanted = "take over" if serving else "be refused"
        verdict = run["decision"]["verdict"] if run["decision"] else run["reason"]
        raise NotReady(f"this act needs a version to {wanted}, but run {run['id']} {run['state']}: {verdict}")


def _serves(story: Story, model: str, version: int) -> bool:
    found = story.client.get(f"/api/models/{model}")
    return found["champion"] == version and not found["rolling_out"]


def _until_answered(traffic: Traffic, more: int) -> None:
    wanted = len(traffic.exchanges) + more
    _until(lambda: len(traffic.exchanges) > wanted)


def _until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotReady(f"nothing happened for {timeout_s:.0f} s")
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
    """8000 where it is free, else any."""
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NotReady("this machine has no free port")
