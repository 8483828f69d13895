"""What is read of many models at once, on both databases."""

from __future__ import annotations

from baton.store.feedback.audit import Drawn
from baton.store.feedback.correction import Correction
from baton.store.records import HistoryKind
from tests.support.database import migrated_registry


def test_models_are_read_together(either_url):
    registry = migrated_registry(either_url)
    for name in ("m", "other"):
        registry.declare_model(name)
    for f1, until in ((0.5, 0), (0.7, 1)):
        number = registry.versions.reserve("m", None)
        lineage = {"dataset": {"feedback_until": until}}
        registry.versions.publish("m", number, uri="u", manifest_sha256="a" * 64, metrics={"f1": f1}, lineage=lineage)
    examples = [{"text": text, "label": "a"} for text in "ab"]
    registry.feedback.add("m", [Correction(client_id=None, request_id=None, position=0, example=it) for it in examples])
    registry.audit.draw("m", [Drawn(keys=(it,), content_hash=it, input={"text": it}) for it in "xyz"])
    registry.history.add_incident("m", HistoryKind.DRIFT, "The texts get longer.")
    found = registry.overview.read(["m", "other"], 1)
    assert (found["m"].scores, found["m"].corrections, found["m"].to_label) == ({2: 0.7}, 1, 3)
    assert [found["m"].newest] == registry.history.list("m")
    assert (found["other"].scores, found["other"].corrections, found["other"].newest) == ({}, 0, None)
    assert [it.texts for it in registry.audit.count("m", 2)] == [2, 1]
    registry.close()
