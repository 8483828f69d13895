"""Metrics: the table of names, the reference made from it, and what the control plane exports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from baton.quality.drift import make_reference
from baton.store.feedback.correction import Correction
from baton.store.records import RunState
from services import metrics
from services.control import control_metrics
from services.control.api.app import build_api
from services.metrics import MetricType, Plane
from tests.support.answers import logged
from tests.support.local_control import LocalControl, configured, control_of, decide, publish
from tests.support.replica import force


def test_every_metric_is_named_once_and_every_label_is_explained():
    names = [metric.name for metric in metrics.METRICS]
    assert len(names) == len(set(names)) > 30
    assert {label for metric in metrics.METRICS for label in metric.labels} <= set(metrics.LABELS)
    assert all(name.startswith("baton_") for name in names)


def test_a_histogram_has_the_parts_that_prometheus_expects():
    assert metrics.QUEUE_SECONDS.series == {
        "ray_baton_queue_seconds_bucket": ("model", "replica", "le"),
        "ray_baton_queue_seconds_sum": ("model", "replica"),
        "ray_baton_queue_seconds_count": ("model", "replica"),
    }
    assert metrics.RUNS.series == {"baton_runs_total": ("model", "state")}
    assert metrics.CHAMPION_F1.series == {"baton_champion_f1": ("model",)}
    assert all(
        list(metric.buckets) == sorted(metric.buckets) and bool(metric.buckets) is (metric.type is MetricType.HISTOGRAM)
        for metric in metrics.METRICS
    )


# --- the control plane ---------------------------------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path: Path) -> Iterator[LocalControl]:
    found = control_of(configured(tmp_path, "one", "two"))
    yield found
    found.registry.close()


@asynccontextmanager
async def idle(_: FastAPI) -> AsyncIterator[None]:
    """No loops: nothing happens between two scrapes."""
    yield


def scrape(control: LocalControl) -> dict[str, float]:
    """The answer to one scrape, by name and labels as Prometheus writes them."""
    answer = TestClient(build_api(control, idle), base_url="http://localhost").get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        f"{it.name}{{{','.join(f'{key}={value}' for key, value in sorted(it.labels.items()))}}}": it.value
        for family in text_string_to_metric_families(answer.text)
        for it in family.samples
        if not it.name.endswith("_created")
    }


def answer(control: LocalControl, label: str) -> None:
    """Sixty answers of version 1 in the log."""
    control.registry.predictions.log([logged(f"r{place}", model="one", label=label, length=40) for place in range(60)])


def test_before_the_first_champion_there_are_zeros_to_count_from_and_no_version(control):
    found = scrape(control)
    assert found["baton_registry_up{}"] == 1
    assert found["baton_runs_total{model=two,state=failed}"] == 0
    assert found["baton_gate_verdicts_total{model=one,verdict=reject}"] == 0
    assert found["baton_feedback_total{model=one,result=accepted}"] == 0
    assert found["baton_live_f1_floor{model=one}"] == 0.5
    assert (found["baton_replicas_wanted{model=one}"], found["baton_replicas{model=one}"]) == (1, 1)
    assert found["baton_replicas_agreeing{model=one}"] == 0
    assert not any(name.startswith(("baton_champion", "baton_last_promotion")) for name in found)


def test_a_promotion_is_told_with_its_time_its_f1_and_the_replicas_that_followed(control):
    publish(control.registry, "one", 80)
    publish(control.registry, "one", 90)
    decide(control.registry, "one", 1)
    promotion = force(control.registry, "one", 1)
    found = scrape(control)
    assert found["baton_champion_version{model=one}"] == 1
    assert found["baton_champion_f1{model=one}"] == pytest.approx(0.8, abs=0.01)
    assert found["baton_champion_corrections{model=one}"] == 0
    assert found["baton_last_promotion_timestamp_seconds{model=one}"] == pytest.approx(promotion.created_at.timestamp())
    assert found["baton_replicas_agreeing{model=one}"] == 0
    control.replicas.serving["one"] = 1
    assert scrape(control)["baton_replicas_agreeing{model=one}"] == 1


def test_only_what_the_gate_said_counts_as_its_verdict(control):
    publish(control.registry, "one", 80)
    publish(control.registry, "one", 70)
    decide(control.registry, "one", 1)
    force(control.registry, "one", 1)
    decide(control.registry, "one", 2)
    found = scrape(control)
    verdicts = {name: count for name, count in found.items() if name.startswith("baton_gate_verdicts_total{model=one")}
    assert sorted(verdicts.values()) == [0, 1, 1]
    assert verdicts["baton_gate_verdicts_total{model=one,verdict=promote}"] == 1


def test_runs_are_counted_by_how_they_ended_and_the_one_in_progress_is_timed(control):
    registry = control.registry
    failed = registry.runs.create("one", {}, started=True)
    registry.runs.finish(failed.id, RunState.FAILED, reason="a test wants it")
    found = scrape(control)
    assert found["baton_runs_total{model=one,state=failed}"] == 1
    assert found["baton_runs_total{model=one,state=succeeded}"] == 0
    assert found["baton_last_run_seconds{model=one}"] > 0
    assert found["baton_run_in_progress{model=one}"] == found["baton_run_elapsed_seconds{model=one}"] == 0
    registry.runs.create("one", {})
    found = scrape(control)
    assert found["baton_run_in_progress{model=one}"] == 1
    assert found["baton_run_elapsed_seconds{model=one}"] > 0
    assert found["baton_last_run_seconds{model=one}"] > 0
    assert "baton_last_run_seconds{model=two}" not in found


def test_drift_of_the_champions_answers_is_told_by_feature_with_its_alarm(control):
    reference = make_reference(["a"] * 100, [0.9] * 100, [40] * 100)
    publish(control.registry, "one", 80, reference=reference)
    force(control.registry, "one", 1)
    answer(control, "b")
    found = scrape(control)
    assert found["baton_drift_psi{feature=label,model=one}"] > found["baton_drift_alarm{feature=label,model=one}"] > 0
    assert found["baton_drift_psi{feature=length,model=one}"] < found["baton_drift_alarm{feature=length,model=one}"]


def test_corrections_tell_the_live_f1_of_the_champion_and_of_its_most_corrected_labels(control, monkeypatch):
    publish(control.registry, "one", 80)
    force(control.registry, "one", 1)
    answer(control, "a")
    truth = ["a"] * 30 + ["b"] * 10
    control.registry.feedback.add(
        "one",
        [
            Correction(client_id=f"c{place}", request_id=f"r{place}", position=0, example={"text": "hello", "label": label})
            for place, label in enumerate(truth)
        ],
    )
    found = scrape(control)
    a = 2 * 30 / (30 + 40)
    assert found["baton_champion_label_live_f1{label=a,model=one}"] == pytest.approx(a)
    assert found["baton_champion_label_live_f1{label=b,model=one}"] == 0
    assert found["baton_champion_live_f1{model=one}"] == pytest.approx(a / 2)
    monkeypatch.setattr(control_metrics, "LABELS_EXPORTED", 1)
    assert [name for name in scrape(control) if "label_live" in name] == ["baton_champion_label_live_f1{label=a,model=one}"]


def test_without_its_database_the_control_plane_still_tells_what_it_knows_itself(tmp_path):
    config = configured(tmp_path, "one").model_copy(update={"database": f"sqlite:///{tmp_path}/missing/baton.db"})
    control = LocalControl(config)
    found = scrape(control)
    assert found["baton_registry_up{}"] == 0
    assert found["baton_replicas{model=one}"] == 1
    assert not any(name.startswith("baton_runs") for name in found)


def test_every_sample_is_one_of_the_table(control):
    publish(control.registry, "one", 80, reference=make_reference(["a"] * 100, [0.9] * 100, [40] * 100))
    force(control.registry, "one", 1)
    answer(control, "a")
    run = control.registry.runs.create("one", {}, started=True)
    control.registry.runs.finish(run.id, RunState.SUCCEEDED)
    allowed = {
        name: labels for metric in metrics.METRICS if metric.plane is Plane.CONTROL for name, labels in metric.series.items()
    }
    seen = set()
    for line in scrape(control):
        name, _, labels = line.rstrip("}").partition("{")
        assert {pair.partition("=")[0] for pair in labels.split(",") if pair} == set(allowed[name]), line
        seen.add(name)
    by_correction = {"baton_champion_live_f1", "baton_champion_label_live_f1", "baton_live_f1"}
    assert set(allowed) - seen == by_correction  # nobody corrected an answer
