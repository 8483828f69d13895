"""Live quality: the task's own score of logged answers against their corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from baton.config.model_settings import ModelSettings
from baton.quality.live import live_quality
from baton.store.feedback.correction import Correction
from baton.store.records import LoggedPrediction, ModelVersion
from baton.tasks.checks import text_length
from baton.text.masks import masker
from tests.support.answers import recent
from tests.support.database import migrated_registry

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Model:
    """A model ``m`` whose answers and corrections are said by the test."""

    def __init__(self, directory: Path, task: str, labels: Sequence[str]) -> None:
        self.settings = ModelSettings.model_validate({"name": "m", "task": task, "data": {"train": "nowhere"}})
        self.task = self.settings.make_task(labels)
        self.registry = migrated_registry(f"sqlite:///{directory}/baton.db")
        self.registry.declare_model("m")
        self.labels = labels
        self.count = 0

    def version(self, labels: Sequence[str] | None = None) -> ModelVersion:
        number = self.registry.versions.reserve("m", None)
        lineage = {"labels": list(self.labels if labels is None else labels)}
        return self.registry.versions.publish(
            "m", number, uri="/nowhere", manifest_sha256="a" * 64, metrics={"f1": 0.5}, lineage=lineage
        )

    def answer(
        self,
        version: ModelVersion,
        output: Any,
        right: Mapping[str, Any],
        redact: Sequence[str] = (),
        shadow: tuple[ModelVersion, Any] | None = None,
    ) -> None:
        """One answer and its correction. ``shadow``: another version, and what it answered to a copy."""
        self.count += 1
        example = self.task.Example.model_validate(right)
        item = self.task.input_of(example)
        masked = masker(redact)(item)
        prediction = LoggedPrediction(
            model="m",
            answer_id=f"a{self.count}",
            request_id=f"r{self.count}",
            position=0,
            version=version.number,
            input=masked.model_dump(mode="json"),
            output=self.kept(output, masked),
            label=None,
            confidence=None,
            length=text_length(item),
            created_at=NOON + timedelta(seconds=self.count),
        )
        self.registry.predictions.log([prediction])
        if shadow is not None:
            copy = replace(prediction, version=shadow[0].number, output=self.kept(shadow[1], masked))
            self.registry.predictions.log_shadow([copy])
        self.correct(f"r{self.count}", example.model_dump(mode="json"))

    def kept(self, output: Any, masked: Any) -> Any:
        """An answer as the log keeps it."""
        return None if output is None else self.task.brief(output, masked).model_dump(mode="json")

    def correct(self, request_id: str, example: dict[str, Any]) -> None:
        self.registry.feedback.add("m", [Correction(client_id=None, request_id=request_id, position=0, example=example)])

    def live_of(self, outputs: Sequence[Any], right: Mapping[str, Any]) -> Any:
        """The task's main metric of ``outputs``, all of which have the same right answer."""
        example = self.task.Example.model_validate(right)
        briefs = [self.task.brief(output, self.task.input_of(example)) for output in outputs]
        return self.task.score(briefs, [example] * len(briefs)).metrics[self.task.metric]

    def live(self, version: ModelVersion, window: int = 100) -> Any:
        return live_quality(self.registry, self.settings, version, window)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path, "classification", ("a", "b"))


def choice(model: Model, label: str) -> Any:
    return model.task.Output(labels=(label,), scores=(0.9,))


def test_without_corrections_there_is_no_live_quality(model):
    version = model.version()
    assert model.live(version) is None


def test_live_f1_is_the_tasks_own_score_of_the_answers_against_their_corrections(model):
    version = model.version()
    for said, right in (("a", "a"), ("a", "b"), ("b", "b"), ("a", "a")):
        model.answer(version, choice(model, said), {"text": "hello", "label": right})
    live = model.live(version)
    # a: 2 right of 3 said and 2 true: 4/5. b: 1 right of 1 said and 2 true: 2/3.
    assert live.f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert (live.version, live.corrections) == (1, 4)
    assert {label: scores["f1"] for label, scores in live.per_class.items()} == pytest.approx({"a": 4 / 5, "b": 2 / 3})
    assert live.per_class["b"]["support"] == 2


def test_only_the_newest_corrections_within_the_window_count(model):
    version = model.version()
    for said, right in (("a", "b"), ("b", "a"), ("a", "a"), ("b", "b")):
        model.answer(version, choice(model, said), {"text": "hello", "label": right})
    assert (model.live(version, 2).f1, model.live(version, 2).corrections) == (1.0, 2)
    assert model.live(version, 4).f1 == 0.5


def test_versions_are_kept_apart(model):
    first, second = model.version(), model.version()
    model.answer(first, choice(model, "a"), {"text": "hello", "label": "b"})
    model.answer(second, choice(model, "b"), {"text": "hello", "label": "b"})
    assert [model.live(version).f1 for version in (first, second)] == [0.0, 1.0]


def test_a_label_that_the_version_does_not_know_counts_as_a_mistake(model):
    version = model.version()
    model.answer(version, choice(model, "a"), {"text": "hello", "label": "a"})
    model.answer(version, choice(model, "a"), {"text": "hello", "label": "brand new"})
    live = model.live(version)
    assert live.f1 == pytest.approx((2 / 3 + 0) / 2)
    assert live.per_class["brand new"]["f1"] == 0.0


def test_what_cannot_be_scored_is_left_out(model):
    version = model.version()
    model.answer(version, None, {"text": "asked in a form that hides something", "label": "b"})
    assert model.live(version) is None
    model.answer(version, choice(model, "a"), {"text": "hello", "label": "b"})
    model.correct("r2", {"text": "of another task", "entities": []})
    assert model.live(version) is None
    model.correct("r2", {"text": "another text than was answered", "label": "a"})
    assert model.live(version) is None
    model.correct("r2", {"text": "hullo", "label": "a"})  # one request id for two requests, say
    assert model.live(version) is None
    model.correct("r2", {"text": "hello", "label": "a"})
    assert model.live(version).f1 == 1.0


def test_entities_are_scored_whole_and_corrections_of_another_text_break_nothing(tmp_path):
    from baton.tasks.ner_entities import Entity

    model = Model(tmp_path, "ner", ("O", "B-PER", "I-PER"))
    version = model.version()
    found = model.task.Output(
        entities=(Entity(label="PER", score=0.9, start=0, end=5, word="Clara"),), word_labels=("B-PER",), word_scores=(0.9,)
    )
    right = {"text": "Clara sings", "entities": [{"start": 0, "end": 5, "label": "PER"}]}
    model.answer(version, found, right)
    model.answer(version, found, {"text": "Clara sings", "entities": []})
    assert model.live(version).f1 == pytest.approx(2 / 3)
    model.correct("r2", {"text": "short", "entities": []})
    assert model.live(version).f1 == 1.0


def test_a_right_answer_counts_though_the_log_has_it_masked(tmp_path):
    from baton.tasks.qa import Answer

    model = Model(tmp_path, "qa", ())
    version = model.version()
    best = Answer(answer="Clara", score=0.9, start=0, end=5)
    right = {"question": "Who?", "context": "Clara sings.", "answers": {"text": ["Clara"], "answer_start": [0]}}
    model.answer(version, model.task.Output(answers=(best,)), right, redact=["[A-Z][a-z]+"])
    assert "Clara" not in str(recent(model.registry.predictions, "m", 1, 1))
    assert model.live(version).f1 == 1.0
