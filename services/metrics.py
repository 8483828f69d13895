"""The table of every metric that Baton exports: name, type, labels, buckets and HELP text. It counts nothing itself.

The reference in ``docs/metrics.md`` is generated from this table. Dashboards and alert rules may use no other names.

To add a metric, define it here and count it in `services.replica.telemetry` (data plane, exported through Ray's agent) or in
`services.control.control_metrics` (control plane, exported at ``GET /metrics``). Prometheus shows each HELP text alone, so each
must be understood alone and name its unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

RAY = "ray_"
"""Prefix that Ray's agent adds to the name of every metric."""

INFINITY = "+Inf"
"""Value of the label ``le`` of a histogram's last bucket, as the Prometheus text format spells it."""


class MetricType(StrEnum):
    """The Prometheus type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Plane(StrEnum):
    """The part of Baton that exports a metric: the replicas (data plane) or the control plane."""

    DATA = "data"
    CONTROL = "control"


LABELS: Mapping[str, str] = {
    "model": "a model of `baton.yaml`",
    "version": "number of a version; `none` if none is loaded. A replica exports the version that it serves, the one before, "
    "and one on trial",
    "status": "in `baton_requests`: `2xx`, `4xx` or `5xx`; in `baton_errors`: the HTTP status code",
    "kind": "title of the error, as in the problem documents of the control plane; `baton/errors.py` lists all titles",
    "replica": "id of the replica in Ray Serve. Its series end half a minute after the replica does",
    "le": "inclusive upper bound of a histogram bucket",
    "result": "`accepted`, `duplicate` or `rejected`",
    "verdict": "`promote`, `reject` or `inconclusive`",
    "state": "in `baton_runs`: `succeeded`, `failed` or `cancelled`; in `baton_rollouts`: `settled`, `rejected` or "
    "`rolled back`",
    "feature": "`length`, `label` or `confidence`",
    "label": "a label that the champion predicts, spelled as in its training data",
}
"""Values that each label can take. They must be few: every combination of values is a series of its own."""

# Bucket bounds. SECONDS spans a short text on a GPU to a long one on a busy CPU. INPUTS ends at the default of
# serving.max_inputs, TOKENS at four times the default of serving.max_batch_tokens, so that tuned models fit in, too.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
INPUTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
TOKENS = (16.0, 64.0, 256.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The definition of one metric."""

    name: str
    """Base name: without Ray's prefix and without suffixes such as ``_total``; `series` has the names in Prometheus."""
    type: MetricType
    plane: Plane
    help: str
    """HELP text: one sentence or two that stand alone, with the unit."""
    labels: tuple[str, ...] = ("model",)
    buckets: tuple[float, ...] = ()
    """Inclusive upper bounds of a histogram's buckets, in ascending order and without infinity; empty for other types."""

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the exported numbers, each with its labels: one, or three for a histogram (buckets, sum, count)."""
        if self.type is not MetricType.HISTOGRAM:
            return {f"{self.name}_total" if self.type is MetricType.COUNTER else self.name: self.labels}
        return {f"{self.name}_bucket": (*self.labels, "le"), f"{self.name}_sum": self.labels, f"{self.name}_count": self.labels}

    @property
    def series(self) -> Mapping[str, tuple[str, ...]]:
        """`parts` under the names that Prometheus stores: with Ray's prefix for the data plane."""
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
    "Requests to the model that were answered, errors included; health checks and descriptions (/info) are not counted.",
    "version",
    "status",
)
ERRORS = _data(
    "baton_errors",
    MetricType.COUNTER,
    "Requests to the model that were answered with an error, by HTTP status code and title of the error.",
    "status",
    "kind",
)
REQUEST_SECONDS = _data(
    "baton_request_seconds",
    MetricType.HISTOGRAM,
    "Seconds from the arrival of a request at a replica to its prediction; requests that failed are not counted.",
    buckets=SECONDS,
)
QUEUE_SECONDS = _data(
    "baton_queue_seconds",
    MetricType.HISTOGRAM,
    "Seconds that a request waited in a replica for a batch; requests that failed are not counted.",
    buckets=SECONDS,
)
INFERENCE_SECONDS = _data(
    "baton_inference_seconds",
    MetricType.HISTOGRAM,
    "Seconds that a request spent in the model, from tokenizing to decoding; requests that failed are not counted.",
    buckets=SECONDS,
)
BATCH_INPUTS = _data(
    "baton_batch_inputs",
    MetricType.HISTOGRAM,
    "Inputs (texts) in one batch of the model; a long request is a batch of its own.",
    buckets=INPUTS,
)
BATCH_TOKENS = _data(
    "baton_batch_tokens",
    MetricType.HISTOGRAM,
    "Estimated tokens in one batch of the model, without padding; to compare with serving.max_batch_tokens.",
    buckets=TOKENS,
)
MODEL_TOKENS = _data(
    "baton_model_tokens", MetricType.COUNTER, "Tokens that went through the model to answer requests, padding tokens included."
)
PADDING_TOKENS = _data(
    "baton_padding_tokens", MetricType.COUNTER, "Padding tokens that went through the model to answer requests."
)
SWAPS = _data(
    "baton_swaps",
    MetricType.COUNTER,
    "Times that a replica replaced the version that it served by another one; its first version is not counted.",
)
ABSTENTIONS = _data(
    "baton_abstentions",
    MetricType.COUNTER,
    "Answers that were too unsure to act on, by the threshold that `serving.abstain_below` or `serving.target_precision` sets.",
)
SERVING_VERSION = _data(
    "baton_serving_version", MetricType.GAUGE, "Number of the model version that a replica serves; 0 if it serves none."
)
QUEUE_DEPTH = _data("baton_queue_depth", MetricType.GAUGE, "Requests that wait in a replica for a batch.")

# --- control plane -----------------------------------------------------------------------------------------------------

REGISTRY_UP = Metric(
    name="baton_registry_up",
    type=MetricType.GAUGE,
    plane=Plane.CONTROL,
    help="1 if the database answered this scrape, 0 if not; then all metrics that are read from the database are missing.",
    labels=(),
)
CHAMPION_VERSION = _control(
    "baton_champion_version",
    MetricType.GAUGE,
    "Number of the version that is champion; missing before the model has its first champion.",
)
CHAMPION_F1 = _control("baton_champion_f1", MetricType.GAUGE, "F1 of the champion on its holdout, from 0 to 1.")
CHAMPION_LIVE_F1 = _control(
    "baton_champion_live_f1",
    MetricType.GAUGE,
    "F1 of the champion on its newest corrected answers (live F1), from 0 to 1; missing while no answer is corrected.",
)
CHAMPION_LABEL_LIVE_F1 = _control(
    "baton_champion_label_live_f1",
    MetricType.GAUGE,
    "F1 of the champion for one label on its newest corrected answers, from 0 to 1; only the 50 most corrected labels.",
    "label",
)
CHAMPION_CORRECTIONS = _control(
    "baton_champion_corrections", MetricType.GAUGE, "Corrected answers from which the F1 in baton_champion_live_f1 is computed."
)
LIVE_F1 = _control(
    "baton_live_f1",
    MetricType.GAUGE,
    "F1 of a version on its newest corrected answers, from 0 to 1; only the champion and the 3 newest that answered.",
    "version",
)
LIVE_F1_FLOOR = _control(
    "baton_live_f1_floor",
    MetricType.GAUGE,
    "Lowest acceptable F1 on corrected answers, from 0 to 1: retrain.live_f1_below, or gate.min_f1 if that is not set.",
)
LAST_PROMOTION = _control(
    "baton_last_promotion_timestamp_seconds",
    MetricType.GAUGE,
    "Time of the last change of the champion, in seconds since 1970-01-01 00:00 UTC.",
)
GATE_VERDICTS = _control(
    "baton_gate_verdicts", MetricType.COUNTER, "Verdicts of the gate since the model was declared.", "verdict"
)
RUNS = _control(
    "baton_runs", MetricType.COUNTER, "Training runs that ended since the model was declared, by their final state.", "state"
)
ROLLOUTS = _control(
    "baton_rollouts",
    MetricType.COUNTER,
    "Roll-outs that ended since the model was declared, canaries and shadows included, by their final state.",
    "state",
)
LAST_RUN_SECONDS = _control(
    "baton_last_run_seconds", MetricType.GAUGE, "Seconds from the start to the end of the newest training run that ended."
)
RUN_IN_PROGRESS = _control(
    "baton_run_in_progress", MetricType.GAUGE, "1 while a training run of the model is queued or running, otherwise 0."
)
RUN_ELAPSED = _control(
    "baton_run_elapsed_seconds",
    MetricType.GAUGE,
    "Seconds since the training run in progress was requested, its time in the queue included; 0 if there is none.",
)
FEEDBACK = _control(
    "baton_feedback", MetricType.COUNTER, "Corrections received since the control plane started, by their result.", "result"
)
FEEDBACK_WAITING = _control(
    "baton_feedback_waiting",
    MetricType.GAUGE,
    "Corrections that arrived after the newest version's training run read the corrections.",
)
DRIFT_PSI = _control(
    "baton_drift_psi",
    MetricType.GAUGE,
    "Population stability index (PSI) between the newest answers and those on the holdout; 0 means no difference.",
    "feature",
)
DRIFT_ALARM = _control(
    "baton_drift_alarm",
    MetricType.GAUGE,
    "Population stability index (PSI) above which a feature counts as drifted.",
    "feature",
)
REPLICAS_WANTED = _control(
    "baton_replicas_wanted", MetricType.GAUGE, "Replicas of the model that the configuration requests (serving.replicas)."
)
REPLICAS = _control("baton_replicas", MetricType.GAUGE, "Replicas of the model that answered the control plane at this scrape.")
REPLICAS_AGREEING = _control(
    "baton_replicas_agreeing", MetricType.GAUGE, "Replicas of the model that serve its champion version."
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All metrics, in the order of their definition above."""

SCRAPE_LABELS = ("job", "instance", "namespace")
"""Labels that Prometheus adds to everything that it scrapes; ``namespace`` only on Kubernetes."""

FOREIGN: Mapping[str, tuple[str, ...]] = {
    "up": (),
    "haproxy_frontend_http_responses_total": ("proxy", "code"),
    "ray_node_cpu_utilization": (),
}
"""Metrics of Prometheus, HAProxy and Ray that dashboards and alert rules use, with the labels that these use."""


def reference() -> str:
    """Return the reference in ``docs/metrics.md``, as Markdown; ``make docs`` writes it there."""
    lines = []
    for plane, title in ((Plane.DATA, "Data plane"), (Plane.CONTROL, "Control plane")):
        lines += [f"### {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
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
    lines += ["", "| label | values |", "|---|---|"]
    lines += [f"| `{label}` | {text} |" for label, text in LABELS.items()]
    return "\n".join(lines) + "\n"
