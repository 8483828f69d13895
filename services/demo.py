"""`baton demo`: the whole loop on the bundled samples, told act by act, with the numbers that it measured.

Uses the product as a user does: the command line starts and stops it, the HTTP API does the rest.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from baton.errors import NotReady
from services import show
from services.client import Client
from services.traffic import Exchange, Traffic, failed, latency_ms, stale

MODEL = "intents"
CONCURRENCY = 8
CORRUPTED = 0.6
"""Share of the labels that act three gets wrong."""

TRAINING = {"tune": "last_n", "last_n": 3, "epochs": 6, "learning_rate": 5.0e-4, "batch_size": 16}
POLL_SECONDS = 0.2
PREFERRED_PORT = 8000


@dataclass
class Story:
    """What the demo has seen so far."""

    out: Console
    client: Client
    texts: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    swaps: list[tuple[str, list[Exchange], int]] = field(default_factory=list)
    """Name, requests during it, and how many sent after it had returned were answered by another version."""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the block's wall time to ``seconds[name]``."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def say(self, text: str) -> None:
        """A line of the story."""
        self.out.print(text, highlight=False)

    @property
    def url(self) -> str:
        """Where predictions are asked for."""
        return f"{self.client.url}/models/{MODEL}"


def play(out: Console, *, keep: bool) -> None:
    """All acts, from an empty directory to one that is gone again. Raises ``NotReady`` when an act ends as it must not."""
    home = Path(tempfile.mkdtemp(prefix="baton-demo-"))
    port = _free_port()
    _write_home(home, port)
    holdout = (home / "holdout.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in holdout]
    story = Story(out=out, client=Client(f"http://127.0.0.1:{port}"), texts=texts)
    out.rule("Baton: serve, fine-tune, judge, hot-swap")
    story.say(f"Working in {home}; nothing outside it is touched. Everything below really happens: Ray Serve, Ray Train, HTTP.")
    try:
        with story.timed("start service"):
            _baton(home, "up", "--detach")
        _first_champion(story, home)
        _better_version(story)
        _bad_version(story, home)
        _back_and_forth(story)
        _summary(story)
        if keep:
            story.say(f"\nStill running: {story.client.url}/docs   stop it: baton down -c {home / 'baton.yaml'}")
    finally:
        if not keep:
            with story.timed("stop service"):
                _baton(home, "down")
            shutil.rmtree(home, ignore_errors=True)
    if not keep:
        story.say("Stopped; nothing is left running.")


def _first_champion(story: Story, home: Path) -> None:
    story.out.rule("Act 1: a first version from a third of the data")
    run = _run(story, [f"data.train={home / 'third.jsonl'}"])
    _expect(run, serving=True)
    question = "I was charged twice this month, please send the second payment back."
    answers, headers = story.client.predict(MODEL, [question], {"top_k": 3})
    story.out.print(show.predictions([question], answers, headers))


def _better_version(story: Story) -> None:
    story.out.rule("Act 2: all of the data, swapped in while a load runs")
    run = _run(story, [], load=True)
    _expect(run, serving=True)


def _bad_version(story: Story, home: Path) -> None:
    story.out.rule(f"Act 3: {CORRUPTED:.0%} of the labels are wrong; the gate must refuse")
    run = _run(story, [f"data.train={home / 'corrupted.jsonl'}"])
    _expect(run, serving=False)
    champion = story.client.get(f"/api/models/{MODEL}")["champion"]
    story.say(f"Champion is still v{champion}.")


def _back_and_forth(story: Story) -> None:
    story.out.rule("Act 4: roll back, and forward again, under load")
    with story.timed("swaps"):
        for name, path, body, version in (
            ("rollback to v1", "rollback", {"reason": "the demo shows a rollback"}, 1),
            ("promotion of v2", "promotions", {"version": 2}, 2),
        ):
            with Traffic(story.url, story.texts, CONCURRENCY) as traffic:
                _until(lambda traffic=traffic: len(traffic.exchanges) > 50)
                answer = story.client.post(f"/api/models/{MODEL}/{path}", body)
                returned = time.perf_counter()
                seen = len(traffic.exchanges)
                _until(lambda traffic=traffic, seen=seen: len(traffic.exchanges) > seen + 100)
            story.out.print(show.decision(answer["decision"]))
            _note_swap(story, name, traffic.exchanges, version, returned)


def _run(story: Story, assignments: list[str], *, load: bool = False) -> dict[str, Any]:
    """A training run watched to its end; with ``load``, requests are sent from its evaluation until its version serves."""
    began = time.perf_counter()
    run: dict[str, Any] = story.client.post(f"/api/models/{MODEL}/runs", {"set": assignments})
    traffic: Traffic | None = None
    with show.progress(story.out, quiet=False) as update:
        while run["state"] in ("queued", "running"):
            time.sleep(POLL_SECONDS)
            run = story.client.get(f"/api/runs/{run['id']}")
            update(run)
            if load and traffic is None and run["stage"] in ("evaluating", "publishing", "deciding"):
                traffic = Traffic(story.url, story.texts, CONCURRENCY).__enter__()
    if run["decision"] and run["decision"]["verdict"] == "promote":
        _until(lambda: _serves(story, run["version"]))
        run["rolled_out"] = True
    returned = time.perf_counter()
    if traffic is not None:
        seen = len(traffic.exchanges)
        _until(lambda: len(traffic.exchanges) > seen + 100)
        traffic.__exit__(None, None, None)
        _note_swap(story, f"v{run['version']} took over", traffic.exchanges, run["version"], returned)
    story.out.print(show.verdict(run))
    if run["version"] is not None:
        version = story.client.get(f"/api/models/{MODEL}/versions/{run['version']}")
        for stage, seconds in version["lineage"]["seconds"].items():
            story.seconds[stage] = story.seconds.get(stage, 0.0) + seconds
        in_stages = sum(version["lineage"]["seconds"].values())
        name = "start jobs, judge, roll out"
        story.seconds[name] = story.seconds.get(name, 0.0) + time.perf_counter() - began - in_stages
    return run


def _note_swap(story: Story, name: str, exchanges: list[Exchange], version: int, returned: float) -> None:
    wrong = stale(exchanges, version, returned)
    story.swaps.append((name, exchanges, wrong))
    story.say(
        f"{name}: {len(exchanges)} requests sent meanwhile, {failed(exchanges)} failed, "
        f"{wrong} answered by another version after it had returned."
    )


def _summary(story: Story) -> None:
    story.out.rule("What happened")
    table = Table("version", "F1", "95% interval", "decision", box=None, header_style="bold", pad_edge=False)
    runs = story.client.get(f"/api/models/{MODEL}/runs")["items"]
    for item in reversed(runs):
        decision = story.client.get(f"/api/runs/{item['id']}")["decision"]
        low, high = decision["numbers"]["f1_interval"]
        f1 = decision["numbers"]["f1"]
        table.add_row(f"v{item['version']}", f"{f1:.4f}", f"{low:.3f} – {high:.3f}", decision["sentence"])
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
        raise NotReady(
            f"this act needs a version to {wanted}, but run {run['id']} {run['state']} ({run['reason'] or 'see above'})"
        )


def _serves(story: Story, version: int) -> bool:
    model = story.client.get(f"/api/models/{MODEL}")
    return model["champion"] == version and not model["rolling_out"]


def _until(condition: Any, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotReady(f"nothing happened for {timeout_s:.0f} s")
        time.sleep(POLL_SECONDS / 4)


def _write_home(home: Path, port: int) -> None:
    """The configuration and the three training files."""
    samples = resources.files("baton.samples") / "intents"
    train = (samples / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (home / "train.jsonl").write_text("\n".join(train), encoding="utf-8")
    (home / "holdout.jsonl").write_text((samples / "holdout.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    (home / "third.jsonl").write_text("\n".join(train[: len(train) // 3]), encoding="utf-8")
    (home / "corrupted.jsonl").write_text("\n".join(_corrupt(train)), encoding="utf-8")
    content = {
        "http": {"port": port},
        "models": [
            {
                "name": MODEL,
                "task": "classification",
                "data": {"train": "train.jsonl", "holdout": "holdout.jsonl"},
                "training": TRAINING,
                "serving": {"replicas": 2},
            }
        ],
    }
    (home / "baton.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _corrupt(lines: list[str]) -> list[str]:
    chance = random.Random(0)
    rows = [json.loads(line) for line in lines]
    labels = sorted({row["label"] for row in rows})
    for row in rows:
        if chance.random() < CORRUPTED:
            row["label"] = chance.choice([label for label in labels if label != row["label"]])
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def _baton(home: Path, command: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", command, *arguments, "-c", str(home / "baton.yaml")],
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
