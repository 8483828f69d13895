"""The hand-over while requests arrive, when two want it at once, and when the new version is broken."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from baton.artifacts import manifest as manifests
from baton.store.records import ModelVersion
from services.demo.traffic import Traffic, failed, stale
from tests.cluster.conftest import CONTROL, LABELS, Service, publish
from tests.support.tiny import keyword_rows
from tests.support.waiting import until
from training import matches

pytestmark = pytest.mark.cluster

WINDOW = 100
"""Requests that must be answered between two moves, so that each move is really looked at."""


@contextmanager
def registry_locked(service: Service) -> Iterator[None]:
    """Nobody can write to the registry inside the ``with`` block; reading goes on."""
    with closing(sqlite3.connect(service.config.database.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def prepared_everywhere(service: Service, version: int) -> bool:
    """Ask the replicas themselves: the control plane may be waiting for the registry."""
    states = [service.http.get("/models/steady/info").json() for _ in range(8)]
    return len({state["replica"] for state in states if version in state["prepared"]}) == 2


def judge(service: Service, version: int) -> None:
    decision = matches.judge(service.settings("steady"), version, service.registry, service.storage)
    assert decision.verdict == "promote", decision.sentence


def test_five_moves_under_load_lose_no_request_and_leave_no_answer_of_the_old_version(steady: Service) -> None:
    texts = [row["text"] for row in keyword_rows(200, LABELS, seed=5)]
    steady.force("steady", 2)
    judge(steady, 3)
    steady.force("steady", 1)
    judge(steady, 2)
    moves = [
        (lambda: steady.promote("steady", 2), 2),
        (lambda: steady.promote("steady", 3), 3),
        (lambda: steady.rollback("steady"), 2),
        (lambda: steady.rollback("steady"), 1),
        (lambda: steady.promote("steady", 2), 2),
    ]
    began, returned = [], []
    with Traffic(f"{steady.url}/models/steady", texts, concurrency=16) as traffic:
        until(lambda: len(traffic.exchanges) > WINDOW, 60, "the traffic flows")
        for move, _ in moves:
            began.append(time.perf_counter())
            answer = move()
            returned.append(time.perf_counter())
            assert answer.status_code == 200, answer.text
            seen = len(traffic.exchanges)
            until(lambda seen=seen: len(traffic.exchanges) > seen + WINDOW, 60, "the traffic flows after a move")
    assert failed(traffic.exchanges) == 0
    before = [exchange for exchange in traffic.exchanges if exchange.answered < began[0]]
    assert stale(before, 1, 0.0) == 0
    for (_, version), since, until_next in zip(moves, returned, [*began[1:], float("inf")], strict=True):
        between = [exchange for exchange in traffic.exchanges if exchange.answered < until_next]
        assert stale(between, version, since) == 0
        assert sum(exchange.sent > since for exchange in between) > WINDOW / 2
    assert steady.registry.champion("steady").version == 2


def test_of_two_promotions_at_once_one_wins_and_the_other_is_a_conflict(steady: Service) -> None:
    steady.force("steady", 1)
    with ThreadPoolExecutor(2) as threads:
        with registry_locked(steady):  # both have read the pointer before either is written down
            futures = [threads.submit(steady.promote, "steady", v, force=True, reason="a race") for v in (2, 3)]
            with pytest.raises(TimeoutError):
                futures[0].result(1.0)
        first, second = sorted((future.result() for future in futures), key=lambda answer: answer.status_code)
    assert (first.status_code, second.status_code) == (200, 409), (first.text, second.text)
    winner = first.json()["promotion"]["version"]
    assert "decide again" in second.json()["detail"]
    assert steady.registry.champion("steady").version == winner
    steady.await_replicas("steady", winner)


def test_a_version_with_an_altered_file_is_refused_by_name_and_the_champion_stays(
    steady: Service, checkpoints: list[Path]
) -> None:
    steady.force("steady", 1)
    version = publish(steady, "steady", checkpoints[0])
    weights = Path(version.uri) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    answer = steady.promote("steady", version.number, force=True, reason="does it load?")
    assert answer.status_code == 409
    assert f"1 of 1 replica cannot load it: {weights} was altered" in answer.json()["detail"]
    assert answer.json()["detail"].endswith("the champion stays")
    assert steady.predict("steady").headers["x-model-version"] == "1"
    assert steady.registry.champion("steady").version == 1
    newest = steady.http.get("/api/models/steady/history").json()["items"][0]
    assert (newest["what"], newest["version"]) == ("rollout failed", version.number)
    assert str(weights) in newest["text"]


def test_a_killed_replica_is_replaced_by_one_that_serves_the_champion(steady: Service) -> None:
    steady.force("steady", 2)
    steady.await_replicas("steady", 2)
    victim = steady.replicas("steady")[0]["pid"]
    [process] = [process for process in steady.processes("ServeReplica:model-steady") if process.pid == victim]
    process.kill()
    steady.await_replicas("steady", 2, without=victim)
    until(lambda: steady.http.get("/readyz").status_code == 200, 10, "ready again")
    answer = steady.predict("steady")
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "2")


# --- versions that are slow or kill -----------------------------------------------------------------------------------------


SLOW_BYTES = 8 * 2**30
"""Size of a file without content (a hole) that takes a replica seconds to verify."""

LARGE_BYTES = 2**30
LARGE_FILE = "special_tokens_map.json"
"""A file that no engine reads."""


def publish_large(service: Service, checkpoint: Path, size: int, **entry: Any) -> ModelVersion:
    """A version with a file that no engine reads, and that has ``size`` bytes, all 0; ``entry`` is changed in its manifest."""
    (checkpoint / LARGE_FILE).write_bytes(b"")
    version = publish(service, "steady", checkpoint)
    os.truncate(Path(version.uri) / LARGE_FILE, size)
    manifest = Path(version.uri) / manifests.NAME
    content = json.loads(manifest.read_text())
    content["files"][LARGE_FILE] |= {"size": size, **entry}
    manifest.write_text(json.dumps(content))
    hash_of_it = hashlib.sha256(manifest.read_bytes()).hexdigest()
    with closing(sqlite3.connect(service.config.database.removeprefix("sqlite:///"))) as connection:
        where = ("steady", version.number)
        connection.execute("UPDATE versions SET manifest_sha256 = ? WHERE model = ? AND number = ?", (hash_of_it, *where))
        connection.commit()
    return version


@pytest.fixture
def slow(steady: Service, checkpoints: list[Path], tmp_path: Path) -> Iterator[int]:
    """A version that takes a replica many seconds to verify, and is not valid in the end."""
    version = publish_large(steady, shutil.copytree(checkpoints[0], tmp_path / "checkpoint"), SLOW_BYTES)
    yield version.number
    (Path(version.uri) / LARGE_FILE).unlink()


@pytest.fixture
def large(steady: Service, checkpoints: list[Path], tmp_path: Path) -> int:
    """A valid version that takes a replica a second to verify."""
    zeros = hashlib.sha256(bytes(LARGE_BYTES)).hexdigest()
    checkpoint = shutil.copytree(checkpoints[0], tmp_path / "checkpoint")
    return publish_large(steady, checkpoint, LARGE_BYTES, sha256=zeros).number


def test_killed_between_pointer_and_commit_the_control_plane_leaves_replicas_that_follow_the_pointer(
    steady: Service, large: int
) -> None:
    steady.force("steady", 1)
    steady.await_replicas("steady", 1)
    [control] = steady.processes(CONTROL)
    replica = steady.processes("ServeReplica:model-steady")[0]
    with ThreadPoolExecutor(1) as threads:
        promotion = threads.submit(steady.promote, "steady", large, force=True, reason="and then the power goes")
        until(
            lambda: (steady.model("steady").get("rollout") or {}).get("state") == "preparing",
            60,
            "the version is being prepared",
        )
        with registry_locked(steady):
            until(lambda: prepared_everywhere(steady, large), 120, "the version is prepared everywhere")
            replica.suspend()  # its commit cannot be confirmed any more
        try:
            until(lambda: steady.registry.champion("steady").version == large, 30, "the pointer moves")
            control.kill()
        finally:
            replica.resume()
        promotion.exception(timeout=60)  # whatever its caller was told: nobody was there to answer
    steady.await_replicas("steady", large)
    assert control.pid not in [process.pid for process in steady.processes(CONTROL)]
    assert steady.predict("steady").headers["x-model-version"] == str(large)
    assert steady.rollback("steady").json()["promotion"]["version"] == 1


def test_a_rollback_does_not_wait_for_a_version_that_takes_long_to_load(steady: Service, slow: int) -> None:
    steady.force("steady", 1)
    steady.force("steady", 2)
    with ThreadPoolExecutor(1) as pool:
        move = pool.submit(steady.promote, "steady", slow, force=True, reason="the test keeps a replica busy")
        until(lambda: bool(steady.model("steady").get("rollout")), 60, "the version is being prepared")
        assert steady.predict("steady").headers["x-model-version"] == "2"
        assert steady.rollback("steady").status_code == 200
        assert move.result(60).status_code == 503
    assert steady.model("steady")["champion"] == 1
    assert {state["version"] for state in steady.replicas("steady")} == {1}


def test_a_version_that_kills_two_replicas_is_given_up_while_the_others_serve(steady: Service, slow: int) -> None:
    steady.force("steady", 2)
    pids = {state["pid"] for state in steady.replicas("steady")}
    killed: list[int] = []

    def over(move: Future[httpx.Response]) -> bool:
        """Kill the replica that reads the version. Tell whether the move ended."""
        for process in steady.processes("ServeReplica:model-steady"):
            with suppress(psutil.Error):
                if process.pid not in killed and any(LARGE_FILE in file.path for file in process.open_files()):
                    assert steady.predict("steady").status_code == 200
                    killed.append(process.pid)
                    process.kill()
        return move.done()

    with ThreadPoolExecutor(1) as pool:
        while len(killed) < 6:
            move = pool.submit(steady.promote, "steady", slow, force=True, reason="the test kills replicas")
            until(partial(over, move), 120, "the move ended")
            answer = move.result()
            if answer.status_code == 409:
                break
            until(lambda: len(steady.replicas("steady")) == 2, 60, "the dead replica is replaced")
    assert "2 replicas died while they loaded it; the champion stays" in answer.json()["detail"]
    assert pids & set(killed)
    assert steady.model("steady")["champion"] == 2
    steady.await_replicas("steady", 2)
