"""Counts of one replica: that they are what Prometheus expects."""

from __future__ import annotations

from services import metrics
from services.metrics import Plane
from services.replica.batching import Prediction
from services.replica.telemetry import Histogram, Telemetry


def told(telemetry: Telemetry, version: int | None = None, waiting: int = 0) -> dict[str, float]:
    """All samples, by name and what follows the model and the replica in their labels."""
    samples = list(telemetry.samples(version, waiting))
    assert {labels[:2] for _, labels, _ in samples} == {("m", "r1")}
    found = {" ".join((name, *labels[2:])): value for name, labels, value in samples}
    assert len(found) == len(samples)
    return found


def telemetry() -> Telemetry:
    return Telemetry("m", "r1", exported=False)


def answer(version: int = 1, queue_ms: float = 2.0, inference_ms: float = 30.0) -> Prediction:
    return Prediction(outputs=[], version=version, queue_ms=queue_ms, inference_ms=inference_ms)


def test_buckets_count_what_does_not_exceed_them_and_everything_below():
    histogram = Histogram(metrics.BATCH_INPUTS)
    for value in (1, 2, 3, 256, 257):
        histogram.observe(value)
    found = {(name, *labels): value for name, labels, value in histogram.samples(("m",))}
    counts = [found["baton_batch_inputs_bucket", "m", bound] for bound in ("1", "2", "4", "128", "256", "+Inf")]
    assert counts == [1, 2, 3, 3, 4, 5]
    assert (found["baton_batch_inputs_count", "m"], found["baton_batch_inputs_sum", "m"]) == (5, 519)


def test_a_prediction_counts_for_its_version_and_in_three_histograms():
    counted = telemetry()
    counted.count_prediction(answer(version=3), 0.04)
    found = told(counted)
    assert found["baton_requests_total 3 2xx"] == 1
    assert found["baton_request_seconds_bucket 0.025"] == 0
    assert found["baton_request_seconds_bucket 0.05"] == found["baton_request_seconds_count"] == 1
    assert found["baton_queue_seconds_sum"] == 0.002
    assert found["baton_inference_seconds_sum"] == 0.03


def test_an_error_counts_by_status_and_kind_and_not_as_a_latency():
    counted = telemetry()
    counted.count_error(2, 422, "invalid input")
    counted.count_error(None, 503, "not ready")
    found = told(counted)
    assert found["baton_errors_total 422 invalid input"] == found["baton_requests_total 2 4xx"] == 1
    assert found["baton_errors_total 503 not ready"] == found["baton_requests_total none 5xx"] == 1
    assert found["baton_request_seconds_count"] == 0


def test_what_alerts_watch_is_there_at_zero_before_it_happens():
    counted = telemetry()
    counted.count_takeover(None, 1)
    found = told(counted)
    watched = ("errors_total 429 overloaded", "errors_total 500 internal error", "requests_total 1 5xx", "requests_total 1 2xx")
    assert [found[f"baton_{name}"] for name in watched] == [0, 0, 0, 0]


def test_the_first_version_is_no_swap_and_old_versions_are_let_go():
    counted = telemetry()
    counted.count_takeover(None, 1)
    assert told(counted)["baton_swaps_total"] == 0
    counted.count_prediction(answer(version=1), 0.01)
    counted.count_takeover(1, 2)
    assert told(counted)["baton_requests_total 1 2xx"] == 1
    counted.count_takeover(2, 3)
    found = told(counted, version=3, waiting=7)
    assert found["baton_swaps_total"] == 2
    assert {name.split()[1] for name in found if name.startswith("baton_requests_total")} == {"2", "3"}
    assert (found["baton_serving_version"], found["baton_queue_depth"]) == (3, 7)


def test_every_data_plane_metric_of_the_table_is_told_and_no_other():
    counted = telemetry()
    counted.count_takeover(None, 1)
    parts = {name: labels for metric in metrics.METRICS if metric.plane is Plane.DATA for name, labels in metric.parts.items()}
    samples = list(counted.samples(1, 0))
    assert {name for name, _, _ in samples} == set(parts)
    assert all(len(labels) == len(parts[name]) for name, labels, _ in samples)
