"""The logs of the last starts: kept when a service stops, at most so many and so large, and read as what was said when."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from services.host import cluster, log_reading, processes, starts
from services.host.log_reading import Reader, files_of
from services.host.starts import FILE_BYTES, KEPT_STARTS, Starts, keep

WORKER = "c064c0b1bac86138db5dccb300f290e17eaedb482384e4e3eaeb1389"
REPLICA = "4d1c4523fe58a5a0ac2ec48c094139beb06a6a798c783c09356870c8"
RUN = "m-20261201-001743-c43407"


def json_line(time: str, message: str, **more: str) -> str:
    return json.dumps({"asctime": time, "levelname": "INFO", "message": message, **more}) + "\n"


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """What the processes of a service have written, in the files and formats of Ray 2.60."""
    texts = {
        "serve/replica_model-m_Model_xxqiw2cm.log": (
            "INFO 2026-12-01 00:00:02,000 model-m_Model xxqiw2cm -- v1 serves (move 1)\n"
            "ERROR 2026-12-01 00:00:05,000 model-m_Model xxqiw2cm 3f4a -- a bug\n"
            "Traceback (most recent call last):\n  File\nValueError: no\n"
        ),
        "serve/replica_control_Control_imrb1nkd.log": json_line("2026-12-01 00:00:03,000", "this cluster looks after m"),
        "serve/controller_5896.log": "INFO 2026-12-01 00:00:01,000 controller 5896 -- Controller starting\n",
        f"job-driver-{RUN}.log": (
            "2026-12-01 00:00:04,000\tINFO job_manager.py:581 -- Runtime env is setting up.\n"
            "Loading:   0%|\rLoading: 100%|\n2026-12-01 00:00:09 error: no such file\n"
        ),
        "job-driver-judge-m-2-0a1b2c3d.log": "2026-12-01 00:00:10 Reject: v2\n",
        f"train/ray-train-app-worker-{WORKER}.log": json_line("2026-12-01 00:00:06,000", "{'loss': '2.456'}", run_name=RUN),
        f"worker-{WORKER}-03000000-6348.err": ":job_id:03000000\n:actor_name:RayTrainWorker\n{'loss': '2.456'}\n*** SIGSEGV\n",
        f"worker-{REPLICA}-01000000-6043.err": ":job_id:01000000\n:actor_name:ServeReplica:model-m:Model\nout of memory\n",
        "raylet.out": "[2026-12-01 00:00:00,500 I 5800 5810] (raylet) main.cc:1: hello\n",
        "events/event_JOBS.log": "{}\n",
    }
    directory = tmp_path / "ray-session"
    for name, text in texts.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
        moment = datetime(2026, 12, 1, 0, 0, 20).timestamp()
        os.utime(directory / name, (moment, moment))
    return directory


def said(start: starts.Start, owner: str | None) -> list[str]:
    reader = Reader(start, owner)
    entries = reader.read()
    reader.close()
    return [f"{entry.time:%S} {entry.source}: {entry.text}" for entry in entries]


M = [
    "02 m/xxqiw2cm: INFO v1 serves (move 1)",
    "05 m/xxqiw2cm: ERROR 3f4a a bug\nTraceback (most recent call last):\n  File\nValueError: no",
    "10 judge-m-2-0a1b2c3d: Reject: v2",
    "20 m/pid 6043: out of memory",
]
OF_RUN = [
    f"04 {RUN}: INFO job_manager.py:581 -- Runtime env is setting up.\nLoading: 100%|",
    f"06 {RUN} worker: INFO {{'loss': '2.456'}}",
    f"09 {RUN}: error: no such file",
    f"20 {RUN} worker (pid 6348): *** SIGSEGV",
]
CONTROL = ["03 control: INFO this cluster looks after m"]


@pytest.mark.parametrize("stopped", [False, True])
def test_each_process_is_told_by_its_name_in_the_order_of_time_while_it_runs_and_afterwards(tmp_path, session, stopped):
    start = Starts(tmp_path / "logs").begin(session)
    if stopped:
        keep(start.directory)
        session.rename(tmp_path / "gone")
    assert said(start, "m") == M
    assert said(start, RUN) == OF_RUN
    assert said(start, "control") == CONTROL
    assert said(start, None) == sorted([*M, *OF_RUN, *CONTROL], key=lambda line: line[:2])
    assert [line.partition(":")[0] for line in said(start, "ray")] == ["00 raylet", "01 controller_5896"]
    assert {file.owner for file in files_of(start)} == {"m", RUN, "control", "ray"}


def test_what_is_added_later_is_read_once_and_whole_also_from_a_file_that_was_rotated(tmp_path, session):
    start = Starts(tmp_path / "logs").begin(session)
    reader = Reader(start, "control")
    assert len(reader.read()) == 1
    file = session / "serve" / "replica_control_Control_imrb1nkd.log"
    with file.open("a") as log:
        log.write(json_line("2026-12-01 00:01:00,000", "two") + '{"asctime": "2026-12-01 00:01:01,000",')
    assert [entry.text for entry in reader.read()] == ["INFO two"]
    with file.open("a") as log:
        log.write(' "levelname": "INFO", "message": "three"}\n')
    file.rename(file.with_name(f"{file.name}.1"))
    file.write_text(json_line("2026-12-01 00:01:02,000", "four"))
    assert [entry.text for entry in reader.read()] == ["INFO three", "INFO four"]
    assert reader.read() == []
    reader.close()


def test_nothing_is_read_again_and_nothing_is_lost_when_the_service_stops(tmp_path, session):
    start = Starts(tmp_path / "logs").begin(session)
    first, late = (session / "serve" / f"replica_model-own_Model_{name}.log" for name in "ab")
    first.write_text("INFO 2026-12-01 00:00:01,000 hello\n")
    reader = Reader(start, "own")
    assert [entry.text for entry in reader.read()] == ["INFO hello"]
    with first.open("a") as file:
        file.write("INFO 2026-12-01 00:00:02,000 bye\n")
    late.write_text("INFO 2026-12-01 00:00:03,000 late\n")
    keep(start.directory)
    shutil.rmtree(session)
    assert [entry.text for entry in reader.read()] == ["INFO bye", "INFO late"]
    assert reader.read() == []
    reader.close()


def test_the_last_starts_are_kept_and_numbers_are_never_used_again(tmp_path):
    logs = Starts(tmp_path / "logs")
    for number in range(1, KEPT_STARTS + 3):
        assert logs.begin(tmp_path / "nowhere").number == number
    assert [start.number for start in logs.all()] == list(range(3, KEPT_STARTS + 3))


def test_of_a_large_file_the_last_whole_lines_are_kept_and_of_all_the_first_in_worth(tmp_path, monkeypatch):
    session = tmp_path / "ray-session"
    (session / "serve").mkdir(parents=True)
    line = b"x" * 99 + b"\n"
    (session / "serve" / "replica_model-m_Model_a.log").write_bytes(line * (FILE_BYTES // 100 + 50) + b"the end\n")
    (session / "raylet.out").write_bytes(line)
    monkeypatch.setattr(starts, "START_BYTES", FILE_BYTES // 2)
    start = Starts(tmp_path / "logs").begin(session)
    keep(start.directory)
    kept = (start.session / "serve" / "replica_model-m_Model_a.log").read_bytes()
    assert FILE_BYTES // 2 - 200 < len(kept) <= FILE_BYTES // 2
    assert (kept.startswith(line), kept.endswith(line + b"the end\n")) == (True, True)
    assert start.kept


def test_the_end_of_a_long_log_is_read(tmp_path, session, monkeypatch):
    monkeypatch.setattr(log_reading, "READ_BYTES", 60)
    start = Starts(tmp_path / "logs").begin(session)
    assert "20 m/xxqiw2cm: Traceback (most recent call last):\n  File\nValueError: no" in said(start, "m")


def test_a_copy_that_was_broken_off_is_made_again(tmp_path, session):
    start = Starts(tmp_path / "logs").begin(session)
    (start.directory / "session.partial").mkdir()
    (start.directory / "session.partial" / "half").write_text("")
    keep(start.directory)
    assert said(start, "control") == CONTROL
    assert not (start.session / "half").exists()
    assert not (start.directory / "session.partial").exists()


def test_what_stops_an_instance_keeps_its_logs(tmp_path):
    instance = cluster.plan("http://127.0.0.1:8000", reserved=8000)
    session = cluster.session_logs_of(Path(instance.directory))
    start = Starts(tmp_path / "logs").begin(session)
    session.mkdir(parents=True)
    (session / "job-driver-r.log").write_text("2026-12-01 00:00:09 error: no such file\n")
    processes.stop_all(replace(instance, logs=str(start.directory)))
    assert not session.exists()
    assert said(start, "r") == ["09 r: error: no such file"]


def test_a_service_that_never_started_ray_leaves_no_logs_and_can_be_asked(tmp_path):
    start = Starts(tmp_path / "logs").begin(tmp_path / "nowhere" / "logs")
    assert said(start, None) == []
    keep(start.directory)
    assert start.kept
    assert said(start, None) == []
