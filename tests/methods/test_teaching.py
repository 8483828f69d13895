"""The teacher of a run: the champion or a directory, which must be able to teach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from baton.artifacts.storage import Storage
from baton.errors import ConfigError
from tests.support.tiny import save_classifier
from tests.support.world import LABELS, World
from training import pipeline
from training.fit.distillation import labels_of
from training.fit.request import TrainingRequest
from training.fit.start import Start

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def world(tiny_base: Path, tmp_path: Path) -> World:
    return World(tiny_base, tmp_path, rows=60)


def find(world: World, **distil: Any) -> tuple[TrainingRequest, dict[str, Any]]:
    """Do the step of a run that finds its teacher."""
    context = world.context(distil=distil)
    request = pipeline.make_request(context, "r", world.dataset, Start(), world.worker_config.database)
    return pipeline.find_teacher(context, world.dataset, request)


def labels_brought(world: World, request: TrainingRequest, cache: Path) -> list[str]:
    directory = Storage(world.storage.url, patient=True).fetch_run(request.start.teacher, cache)
    assert (directory / "model.safetensors").is_file()
    return labels_of(json.loads((directory / "config.json").read_text()))


def test_the_champion_is_brought_to_the_runs_files(world, tiny_base, tmp_path):
    request, facts = find(world)
    assert (request.start.teacher, facts) == ("", {"distillation": {"teacher": "none: there is no champion yet"}})
    world.make_champion(world.publish(save_classifier(tiny_base, LABELS, tmp_path / "version")))
    request, facts = find(world)
    assert facts == {"distillation": {"teacher": "v1"}}
    assert labels_brought(world, request, tmp_path / "cache") == list(LABELS)
    assert "teacher" not in request.start.facts()


def test_a_directory_can_teach_the_labels_that_it_knows(world, tiny_base, tmp_path):
    teacher = save_classifier(tiny_base, ("other", "bug"), tmp_path / "teacher")
    request, facts = find(world, teacher=str(teacher))
    assert facts == {"distillation": {"teacher": str(teacher)}}
    assert labels_brought(world, request, tmp_path / "cache") == ["other", "bug"]


def test_who_cannot_teach_is_refused(world, tiny_base, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.distil\.teacher: .*nowhere"):
        find(world, teacher=str(tmp_path / "nowhere"))
    teacher = save_classifier(tiny_base, ("other",), tmp_path / "teacher")
    with pytest.raises(ConfigError, match="knows other, but none of the run's labels, such as billing, bug"):
        find(world, teacher=str(teacher))
    tokenizer = json.loads((teacher / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["please"], vocabulary["about"] = vocabulary["about"], vocabulary["please"]
    (teacher / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"splits texts into other tokens than .*; allowed: a model with the same tokenizer"):
        find(world, teacher=str(teacher))


def test_a_run_without_one_has_no_such_step(world):
    context = world.context()
    request = pipeline.make_request(context, "r", world.dataset, Start(), "unused")
    assert pipeline.find_teacher(context, world.dataset, request) == (request, {})
