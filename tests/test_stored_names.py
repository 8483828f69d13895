"""Nothing that Baton stores, or hands to Serve, names a module of its own but the Serve builders: modules may move."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
import yaml

from baton.config.file import load_config
from services.host.render import serve_config
from tests.support.growing import correct, freeze_recorded
from tests.support.tiny import save_classifier
from tests.support.world import LABELS, World
from tests.test_structure import PRODUCT, ROOT, modules
from training import matches

DOTTED = re.compile(r"\b(?:" + "|".join(PRODUCT) + r")\.[a-z_.]+")
BUILDERS = {"services.app:control", "services.app:model"}


def named_modules(text: str) -> set[str]:
    """The modules of the product that ``text`` names by their dotted path."""
    known = set(modules(*PRODUCT)) - set(PRODUCT)
    found = set()
    for name in DOTTED.findall(text):
        module = name
        while module and module not in known:
            module = module.rpartition(".")[0]
        found |= {module} - {""}
    return found


def test_a_module_path_would_be_seen():
    assert named_modules('{"class": "baton.tasks.ner.Ner", "file": "baton.json", "key": "training.epochs"}') == {
        "baton.tasks.ner"
    }


@pytest.mark.usefixtures("one_thread")
def test_database_and_storage_name_no_module(tiny_base, tmp_path):
    world = World(tiny_base, tmp_path, rows=60)
    settings = world.settings()
    world.registry.declare_model("m", settings.model_dump(mode="json"))
    run = world.registry.runs.create("m", settings.model_dump(mode="json"), None)
    correct(world.registry, "m", {"text": "a new text", "label": "billing"})
    freeze_recorded(world.registry, settings, world.storage)
    version = world.publish(save_classifier(world.base, LABELS, tmp_path / "checkpoint"))
    matches.judge(settings, version.number, world.registry, world.storage)
    world.make_champion(version)

    database = sqlite3.connect(tmp_path / "baton.db")
    written = "\n".join(database.iterdump())
    assert run.id in written, "the dump is not of this database"
    stored = [path for path in (tmp_path / "storage").rglob("*") if path.suffix in (".json", ".jsonl", ".txt")]
    assert any(path.name == "baton.json" for path in stored)
    for text in (written, *(path.read_text(encoding="utf-8") for path in stored)):
        assert named_modules(text) == set()


def test_serve_configs_name_the_builders_and_no_other_module():
    config = load_config(ROOT / "deploy" / "kuberay" / "overlays" / "cpu" / "baton.yaml", {})
    rendered = serve_config(config)
    applications = yaml.safe_load(rendered)["applications"]
    assert {application["import_path"] for application in applications} == BUILDERS
    assert named_modules(rendered) == {builder.partition(":")[0] for builder in BUILDERS}
    assert all((Path(ROOT) / f"{builder.partition(':')[0].replace('.', '/')}.py").is_file() for builder in BUILDERS)
