"""The index of models in the Open Inference Protocol, which both planes answer."""

from __future__ import annotations

import pytest

from baton.errors import InvalidInput, MalformedRequest
from services.open_inference import repository_index

MODELS = {"good": (3, ""), "empty": (None, "no champion yet")}


def test_the_index_says_of_each_model_which_version_serves_or_why_none_does():
    assert repository_index(b"", MODELS) == [
        {"name": "good", "version": "3", "state": "READY", "reason": ""},
        {"name": "empty", "state": "UNAVAILABLE", "reason": "no champion yet"},
    ]


@pytest.mark.parametrize(("body", "names"), [(b'{"ready": true}', ["good"]), (b'{"ready": false}', ["good", "empty"])])
def test_the_index_can_be_of_the_ready_models_only(body, names):
    assert [entry["name"] for entry in repository_index(body, MODELS)] == names


@pytest.mark.parametrize(
    ("body", "error"),
    [(b"{", MalformedRequest), (b"[]", MalformedRequest), (b'{"ready": 1}', InvalidInput), (b'{"x": true}', InvalidInput)],
)
def test_another_body_is_refused(body, error):
    with pytest.raises(error):
        repository_index(body, MODELS)
