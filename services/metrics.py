"""Every metric that Baton exports, as one declarative table: names, types, labels, buckets. Counts nothing itself.

``docs/metrics.md`` is made from it, and dashboards and alert rules may use no other names. The data plane's metrics travel
through Ray's agent (`services.replica.telemetry`); the control plane's are read from `GET /metrics`
(`services.control.control_metrics`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

RAY = "ray_"
"""What Ray's agent puts before the name of every metric."""

INFINITY = "+Inf"


class MetricType(StrEnum):
    """A metric's Prometheus type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Plane(StrEnum):
    """Who exports a metric."""

    DATA = "data"
    CONTROL = "control"


LABELS: Mapping[str, str] = {
    "model": "a model of `baton.yaml`",
    "version": "a version's number; `none` where none is loaded. A replica tells of the one that serves and the one before",
    "status": "of `baton_requests`: `2xx`, `4xx` or `5xx`; of `baton_errors`: the HTTP status",
    "kind": "the error's title, as in the control plane's problem documents: one of the classes in `baton/errors.py`",
    "replica": "the replica's name in Ray Serve. All its series end half a minute after it",
    "le": "upper bound of a histogram's bucket, inclusive",
    "result": "`accepted`, `duplicate` or `rejected`",
    "verdict": "`promote`, `reject` or `inconclusive`",
    "state": "`succeeded`, `failed` or `cancelled`",
    "feature": "`length`, `label` or `confidence`",
    "label": "a label of the champion's, as its data has it",
}
"""What each label holds, and so what bounds its values."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
INPUTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
TOKENS = (16.0, 64.0, 256.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. ``name`` is without what its way to Prometheus adds; ``buckets`` are upper bounds, without infinity."""

    name: str
    type: MetricType
    plane: Plane
    help: str
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the numbers that it is made of, each with its labels: one, or a histogram's buckets, sum and count."""
        if self.type is not MetricType.HISTOGRAM:
            return {f"{self.name}_total" if self.type is MetricType.COUNTER else self.name: self.labels}
        return {f"{self.name}_bucket": (*self.labels, "le"), f"{self.name}_sum": self.labels, f"{self.name}_count": self.labels}

    @property
    def series(self) -> Mapping[str, tuple[str, ...]]:
        """The same under the names that Prometheus knows."""
        prefix = RAY if self.plane is Plane.DATA else ""
        return {f"{prefix}{name}": labels for name, labels in self.parts.items()}


def _data(name: str, metric_type: MetricType, text: str, *labels: str, buckets: tuple[float, ...] = ()) -> Metric:
    return Metric(
        name=name, type=metric_type, plane=Plane.DATA, help=text, labels=("model", "replica", *labels), buckets=buckets
    )


def _control(name: str, metric_type: MetricType, text: str, *labels: str) -> Metric:
    return Metric(name=name, type=metric_type, plane=Plane.CONTROL, help=text, labels=("model", *labels))


# --- data plane: each replica ------------------------------------------------------------------------------------------

REQUESTS = _data(
    "baton_requests",
    MetricType.COUNTER,
    "Requests to the model that were answered; not /health and /info.",
    "version",
    "status",
)
ERRORS = _data(
    "baton_errors", MetricType.COUNTER, "Requests that were answered with an error, by what it was.", "status", "kind"
)
REQUEST_SECONDS = _data(
    "baton_request_seconds",
    MetricType.HISTOGRAM,
    "From a request's arrival to its prediction, errors left out.",
    buckets=SECONDS,
)
QUEUE_SECONDS = _data("baton_queue_seconds", MetricType.HISTOGRAM, "Of that, waiting for a batch.", buckets=SECONDS)
INFERENCE_SECONDS = _data("baton_inference_seconds", MetricType.HISTOGRAM, "Of that, in the model.", buckets=SECONDS)
BATCH_INPUTS = _data("baton_batch_inputs", MetricType.HISTOGRAM, "Inputs (texts) in one batch.", buckets=INPUTS)
BATCH_TOKENS = _data(
    "baton_batch_tokens", MetricType.HISTOGRAM, "Tokens in one batch, as serving.max_batch_tokens counts them.", buckets=TOKENS
)
MODEL_TOKENS = _data("baton_model_tokens", MetricType.COUNTER, "Tokens that went through the model, padding included.")
PADDING_TOKENS = _data("baton_padding_tokens", MetricType.COUNTER, "Of those, padding.")
SWAPS = _data("baton_swaps", MetricType.COUNTER, "Times that a replica changed the version that it serves.")
SERVING_VERSION = _data("baton_serving_version", MetricType.GAUGE, "The version that a replica serves, 0 for none.")
QUEUE_DEPTH = _data("baton_queue_depth", MetricType.GAUGE, "Requests that wait in a replica.")

# --- control plane -----------------------------------------------------------------------------------------------------

REGISTRY_UP = Metric(
    name="baton_registry_up",
    type=MetricType.GAUGE,
    plane=Plane.CONTROL,
    help="1 where the database answers. Where it does not, what is read from it is left out.",
    labels=(),
)
CHAMPION_VERSION = _control(
    "baton_champion_version", MetricType.GAUGE, "The version that serves; none before the first champion."
)
CHAMPION_F1 = _control("baton_champion_f1", MetricType.GAUGE, "F1 of the champion on its holdout.")
CHAMPION_LIVE_F1 = _control("baton_champion_live_f1", MetricType.GAUGE, "F1 of the champion on its newest corrected answers.")
CHAMPION_LABEL_LIVE_F1 = _control(
    "baton_champion_label_live_f1", MetricType.GAUGE, "The same for each of its labels, the 50 most corrected.", "label"
)
CHAMPION_CORRECTIONS = _control("baton_champion_corrections", MetricType.GAUGE, "Corrected answers that this live F1 rests on.")
LIVE_F1 = _control("baton_live_f1", MetricType.GAUGE, "F1 on the newest corrected answers, of the newest versions.", "version")
LIVE_F1_FLOOR = _control(
    "baton_live_f1_floor",
    MetricType.GAUGE,
    "Live F1 below this is bad: retrain.live_f1_below, or gate.min_f1 where that is not set.",
)
LAST_PROMOTION = _control(
    "baton_last_promotion_timestamp_seconds", MetricType.GAUGE, "When the champion last changed, in seconds since the epoch."
)
GATE_VERDICTS = _control(
    "baton_gate_verdicts", MetricType.COUNTER, "What the gate said, since the model was declared.", "verdict"
)
RUNS = _control("baton_runs", MetricType.COUNTER, "Training runs that ended, since the model was declared.", "state")
LAST_RUN_SECONDS = _control("baton_last_run_seconds", MetricType.GAUGE, "How long the newest ended run took, from its start.")
RUN_IN_PROGRESS = _control("baton_run_in_progress", MetricType.GAUGE, "1 while a run is queued or running.")
RUN_ELAPSED = _control(
    "baton_run_elapsed_seconds", MetricType.GAUGE, "How long ago the run in progress was asked for; 0 without."
)
FEEDBACK = _control("baton_feedback", MetricType.COUNTER, "Corrections received since the control plane started.", "result")
FEEDBACK_WAITING = _control(
    "baton_feedback_waiting", MetricType.GAUGE, "Corrections that came after those that the newest version's run looked at."
)
DRIFT_PSI = _control(
    "baton_drift_psi", MetricType.GAUGE, "How far the newest answers are from those on the holdout (PSI).", "feature"
)
DRIFT_ALARM = _control("baton_drift_alarm", MetricType.GAUGE, "The PSI that counts as drift.", "feature")
REPLICAS_WANTED = _control("baton_replicas_wanted", MetricType.GAUGE, "Replicas that the configuration asks for.")
REPLICAS = _control("baton_replicas", MetricType.GAUGE, "Replicas that answer.")
REPLICAS_AGREEING = _control("baton_replicas_agreeing", MetricType.GAUGE, "Replicas that serve the champion.")

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""

SCRAPE_LABELS = ("job", "instance", "namespace")
"""What Prometheus itself adds to whatever it scrapes; the namespace on Kubernetes only."""

FOREIGN: Mapping[str, tuple[str, ...]] = {
    "up": (),
    "haproxy_frontend_http_responses_total": ("proxy", "code"),
    "ray_node_cpu_utilization": (),
}
"""Metrics of others that dashboards and alert rules use, with the labels that they use."""


def reference() -> str:
    """The reference in ``docs/metrics.md``, as Markdown: ``python -m services.metrics`` prints it."""
    lines = []
    for plane, title in ((Plane.DATA, "Data plane"), (Plane.CONTROL, "Control plane")):
        lines += [f"### {title}", "", "| metric | type | labels | is |", "|---|---|---|---|"]
        for metric in METRICS:
            if metric.plane is plane:
                labels = ", ".join(f"`{label}`" for label in metric.labels)
                names = "<br>".join(f"`{name}`" for name in metric.series)
                lines.append(f"| {names} | {metric.type} | {labels} | {metric.help} |")
        lines.append("")
    lines += ["Buckets (upper bounds; the last one is infinity):", ""]
    for buckets in dict.fromkeys(metric.buckets for metric in METRICS if metric.buckets):
        names = ", ".join(f"`{metric.name}`" for metric in METRICS if metric.buckets == buckets)
        lines.append(f"- {names}: {', '.join(f'{bound:g}' for bound in buckets)}")
    lines += ["", "| label | holds |", "|---|---|"]
    lines += [f"| `{label}` | {text} |" for label, text in LABELS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
