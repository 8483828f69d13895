"""Online fine-tuning through the whole system: answers are corrected, a better version takes over, nobody is in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.store.records import RunState
from tests.cluster.conftest import LABELS, Service, publish
from tests.support.tiny import keyword_rows
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

ROWS = keyword_rows(40, LABELS, seed=11)


def test_corrections_by_request_id_start_a_run_that_learns_from_them_and_takes_over(
    service: Service, checkpoints: list[Path]
) -> None:
    publish(service, "online", checkpoints[0])  # it guesses
    service.force("online", 1)
    service.await_replicas("online", 1)
    items = []
    for number, row in enumerate(ROWS):
        answer = service.http.post("/models/online", json={"inputs": row["text"]}, headers={"x-request-id": f"ticket-{number}"})
        assert answer.headers["x-model-version"] == "1"
        items.append({"id": f"c{number}", "request_id": f"ticket-{number}", "label": row["label"]})

    told = service.http.post("/api/models/online/feedback", json=items)
    assert told.status_code == 200, told.text
    assert told.json() == {"accepted": len(ROWS), "duplicates": 0, "replaced": 0, "rejected": 0, "errors": [], "new_labels": []}
    assert service.http.post("/api/models/online/feedback", json=items).json()["duplicates"] == len(ROWS)

    def live() -> list[tuple[int, int]]:  # remembered for some seconds
        items = service.http.get("/api/models/online/live").json()["items"]
        return [(item["version"], item["corrections"]) for item in items]

    until(lambda: live() == [(1, len(ROWS))], 15, f"live quality of all corrections: {live()}")

    until(lambda: service.registry.runs.list("online"), 30, "a run that nobody asked for")
    run = service.await_run(service.registry.runs.list("online")[0].id)
    assert run.state is RunState.SUCCEEDED, run.reason
    assert run.cause == f"{len(ROWS)} new corrections (40 wanted)"
    frozen = service.registry.datasets.latest("online")
    assert frozen is not None
    assert frozen.feedback_until == service.registry.feedback.newest("online", 1)[0].id
    assert frozen.train_feedback + frozen.corrections == len(ROWS)
    service.await_replicas("online", 2)
    assert service.registry.champion("online").version == 2
    assert "retrain started" in [entry.what for entry in service.registry.history.list("online")]
    state = service.http.get("/api/models/online/retrain").json()
    assert (state["starts"], state["new_examples"]) == (False, 0)
