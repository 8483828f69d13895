"""What differs between two configurations, what applies it, and what of a model its replicas read."""

from __future__ import annotations

from typing import Any

import pytest

from baton.config.changes import Change, Difference, Effect, Kind, ModelChange, difference, for_replicas, shown
from baton.config.file import BatonConfig
from baton.config.model_settings import ModelSettings

TICKETS: dict[str, Any] = {"name": "tickets", "task": "classification", "data": {"train": "/data/train.jsonl"}}
SECRET = "postgresql+psycopg://baton:{}@db/baton"


def config(*models: dict[str, Any], **service: Any) -> BatonConfig:
    return BatonConfig.model_validate({"models": list(models), **service})


def tickets(**sections: Any) -> dict[str, Any]:
    return {**TICKETS, **sections}


def only(found: Difference) -> Change:
    [model] = found.models
    assert (model.model, model.kind, found.restart) == ("tickets", Kind.CHANGED, ())
    [change] = model.changes
    return change


def test_the_same_configuration_does_not_differ():
    found = difference(config(TICKETS), config(tickets(gate={"min_f1": 0.5})))  # the default, written down
    assert not found
    assert (found, found.summary) == (Difference(models=(), restart=()), "")


@pytest.mark.parametrize(
    ("sections", "key", "old", "new", "effect"),
    [
        ({"gate": {"min_f1": 0.7}}, "gate.min_f1", 0.5, 0.7, Effect.AT_ONCE),
        ({"retrain": {"after_examples": 9}}, "retrain.after_examples", None, 9, Effect.AT_ONCE),
        ({"training": {"epochs": 7}}, "training.epochs", None, 7, Effect.AT_ONCE),
        ({"feedback": {"retention_days": 3}}, "feedback.retention_days", 30.0, 3.0, Effect.AT_ONCE),
        ({"data": {"train": "/data/new.jsonl"}}, "data.train", "/data/train.jsonl", "/data/new.jsonl", Effect.AT_ONCE),
        ({"data": {**TICKETS["data"], "fields": {"text": "body"}}}, "data.fields.text", None, "body", Effect.AT_ONCE),
        ({"serving": {"replicas": 2}}, "serving.replicas", 1, 2, Effect.SCALES),
        ({"serving": {"threads": 2}}, "serving.threads", 1, 2, Effect.REPLACES),
        ({"serving": {"nodes": {"pool": "gpu"}}}, "serving.nodes.pool", None, "gpu", Effect.REPLACES),
        ({"feedback": {"redact": ["[0-9]+"]}}, "feedback.redact", [], ["[0-9]+"], Effect.REPLACES),
        ({"training": {"max_length": 64}}, "training.max_length", None, 64, Effect.REPLACES),
        ({"rollout": {"max_latency_ratio": 2}}, "rollout.max_latency_ratio", 3.0, 2.0, Effect.REPLACES),
        ({"task": "multi_label"}, "task", "classification", "multi_label", Effect.REPLACES),
    ],
)
def test_a_changed_key_of_a_model_is_told_with_both_values_and_what_applies_it(sections, key, old, new, effect):
    found = difference(config(TICKETS), config(tickets(**sections)))
    assert only(found) == Change(key=key, old=old, new=new, effect=effect)
    assert found.summary == f"models tickets: {key}"


def test_models_that_come_and_go_are_told_in_the_order_of_the_new_file_and_removed_ones_last():
    before = config(tickets(name="gone"), TICKETS)
    after = config(tickets(name="new"), tickets(gate={"min_f1": 0.7, "min_gain": 0.01}))
    found = difference(before, after)
    assert [(it.model, it.kind) for it in found.models] == [
        ("new", Kind.ADDED),
        ("tickets", Kind.CHANGED),
        ("gone", Kind.REMOVED),
    ]
    assert found.models[0] == ModelChange(model="new", kind=Kind.ADDED)
    assert found.summary == "models new added; tickets: gate.min_f1, gate.min_gain; gone removed"


def test_the_order_of_models_does_not_matter():
    other = tickets(name="other")
    assert not difference(config(TICKETS, other), config(other, TICKETS))


@pytest.mark.parametrize(
    ("service", "key", "old", "new"),
    [
        ({"http": {"port": 9000}}, "http.port", 8000, 9000),
        ({"auth": {"required": True}}, "auth.required", "auto", True),
        ({"logging": {"format": "json"}}, "logging.format", "text", "json"),
        ({"storage": "s3://bucket"}, "storage", "./.baton/storage", "s3://bucket"),
    ],
)
def test_everything_but_models_needs_a_restart(service, key, old, new):
    found = difference(config(TICKETS), config(TICKETS, **service))
    assert (found.models, found.restart) == ((), (Change(key=key, old=old, new=new, effect=Effect.RESTART),))
    assert found.summary == key
    assert found.kept == ([key] if key == "storage" else [])


def test_no_password_is_shown_or_compared():
    before, after = (config(TICKETS, database=SECRET.format(word)) for word in ("Xanthippe", "Socrates"))
    assert not difference(before, after)
    assert "Xanthippe" not in str(shown(before))
    moved = difference(before, config(TICKETS, database="sqlite:///elsewhere.db"))
    assert moved.restart[0].old == SECRET.format("***")
    assert moved.kept == ["database"]


def test_no_secret_of_a_receiver_is_shown_or_compared_and_another_receiver_needs_a_restart():
    url, secret = "https://hooks.example.org/services/T00/{}", "whsec_" + "c2VjcmV0IGFuZCBsb25n"
    before, after = (config(TICKETS, notify=[{"url": url.format(path), "secret": secret}]) for path in ("abc", "xyz"))
    assert "abc" not in str(shown(before))
    assert secret not in str(shown(before))
    assert not difference(BatonConfig.model_validate(shown(before)), after)
    assert difference(config(TICKETS), after).kept == ["notify"]


def test_what_is_shown_can_be_compared_again():
    original = config(tickets(training={"epochs": 7}, serving={"nodes": {"pool": "gpu"}}), http={"port": 9000})
    assert not difference(BatonConfig.model_validate(shown(original)), original)


def test_replicas_are_given_what_they_read_and_nothing_else():
    settings = ModelSettings.model_validate(
        tickets(
            training={"max_length": 64, "stride": 8, "epochs": 7},
            gate={"min_f1": 0.7},
            serving={"replicas": 3, "threads": 2},
            feedback={"log": 0.5, "accept": False},
            rollout={"canary": 5, "max_latency_ratio": 2},
            retrain={"after_examples": 9},
        )
    )
    assert for_replicas(settings) == {
        "name": "tickets",
        "task": "classification",
        "serving": {"replicas": 3, "threads": 2},
        "feedback": {"log": 0.5},
        "rollout": {"max_latency_ratio": 2.0},
        "training": {"max_length": 64, "stride": 8},
    }
    assert ModelSettings.model_validate(for_replicas(settings)).serving == settings.serving
