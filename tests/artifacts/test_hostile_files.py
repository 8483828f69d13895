"""What hostile models and names try: to run code, and to leave their directory."""

from __future__ import annotations

import ast
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from baton.artifacts.manifest import Manifest
from baton.config.file import load_config
from baton.config.serving_settings import ServingSettings
from baton.engines.torch_engine import load_model
from baton.errors import ConfigError, CorruptVersion
from baton.predict.predictor import Predictor
from tests.cli.test_cli import GOOD, write
from tests.control.test_api import Api
from tests.control.test_api import api as api  # noqa: PLC0414  a fixture
from tests.support.tiny import save_classifier

ROOT = Path(__file__).parents[2]
LABELS = ("billing", "bug")
CLASSIFIER = "AutoModelForSequenceClassification"

ESCAPES = ("../x", "..", ".", "a/b", "/etc", "a\\b", "..%2fx", "a\x00", "a\n", "A", "", "~root", "a.b")


class Trap:
    """Makes a directory when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """There once code of a model has run."""
    yield tmp_path / "owned"
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def hostile(tiny_base: Path, tmp_path: Path, marker: Path) -> Callable[..., Path]:
    """A classifier whose weights are a pickle that runs code; with ``safe`` the real weights are there, too."""

    def make(*, safe: bool) -> Path:
        directory = save_classifier(tiny_base, LABELS, tmp_path / "hostile")
        if not safe:
            (directory / "model.safetensors").unlink()
        (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(marker)))
        return directory

    return make


def manifest() -> Manifest:
    return Manifest(
        model="m",
        task="classification",
        labels=LABELS,
        max_length=64,
        base_model="tiny",
        dataset={},
        training={},
        metrics={},
        code_version="0",
    )


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").is_dir()


@pytest.mark.parametrize("labels", [None, LABELS], ids=["as it is", "with a fresh head"])
def test_a_base_model_with_pickled_weights_is_refused(hostile, labels):
    with pytest.raises(OSError, match="safetensors"):
        load_model(CLASSIFIER, hostile(safe=False), labels)


def test_a_version_with_pickled_weights_is_refused(hostile):
    with pytest.raises(CorruptVersion, match="does not load as AutoModelForSequenceClassification"):
        Predictor.load(hostile(safe=False), manifest(), ServingSettings(device="cpu"))


def test_a_pickle_beside_safe_weights_is_not_opened(hostile):
    Predictor.load(hostile(safe=True), manifest(), ServingSettings(device="cpu")).warm()


@pytest.fixture
def coded(tiny_base: Path, tmp_path: Path, marker: Path) -> Iterator[Callable[[str], Path]]:
    """A classifier of some family that brings code for its configuration, its model and its tokenizer."""

    def make(family: str) -> Path:
        directory = save_classifier(tiny_base, LABELS, tmp_path / "coded")
        (directory / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Evil: ...\n")
        for name in ("config.json", "tokenizer_config.json"):
            content = json.loads((directory / name).read_text())
            code = {"AutoConfig": "evil.Evil", CLASSIFIER: "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
            (directory / name).write_text(json.dumps({**content, "model_type": family, "auto_map": code}))
        return directory

    yield make
    assert "evil" not in sys.modules


def test_a_model_that_needs_its_own_code_is_refused(coded):
    directory = coded("evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_model(CLASSIFIER, directory)
    with pytest.raises(CorruptVersion):
        Predictor.load(directory, manifest(), ServingSettings(device="cpu"))


def test_code_beside_a_model_of_a_known_family_is_not_run(coded):
    directory = coded("bert")
    Predictor.load(directory, manifest(), ServingSettings(device="cpu")).warm()
    transformers.AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)


def product() -> list[tuple[Path, ast.AST]]:
    files = [path for package in ("baton", "training", "services") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    return [(path, ast.parse(path.read_text())) for path in files]


def test_nothing_of_ours_loads_a_pickle_or_trusts_a_models_code():
    """`from_pretrained` of transformers must say that it does not; torch.load and the pickle module are not used at all."""
    found: list[str] = []
    loads = 0
    for path, tree in product():
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                if names == ["UnpicklingError", "pickle"]:  # an error, which reads nothing
                    continue
                found += [f"{where} imports {name}" for name in names if name.split(".")[0] in ("pickle", "dill", "joblib")]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                called = ast.unparse(node.func)
                if called in ("torch.load", "numpy.load", "np.load"):
                    safe = given.get("allow_pickle")
                    if not (called.endswith("p.load") and isinstance(safe, ast.Constant) and safe.value is False):
                        found.append(f"{where} calls {called}")
                if node.func.attr == "from_pretrained":
                    loads += 1
                    trusts = given.get("trust_remote_code")
                    if not (isinstance(trusts, ast.Constant) and trusts.value is False):
                        found.append(f"{where}: {called} does not say trust_remote_code=False")
    assert found == []
    assert loads >= 4


@pytest.mark.parametrize("name", ESCAPES)
def test_a_model_cannot_be_named_out_of_its_directory(tmp_path, name):
    content = {"models": [{**GOOD["models"][0], "name": name}]}
    with pytest.raises(ConfigError, match=r"models\[0\]\.name: .* is not allowed"):
        load_config(write(tmp_path, content), {})


@pytest.mark.parametrize("name", ["..%2fm", "%2e%2e", "m%2f..%2fm", "..%5cm", "m%00", "%2fetc%2fpasswd"])
def test_no_route_takes_a_model_name_that_leaves_its_directory(api: Api, name: str):
    routes = [
        (method, route.path)
        for route in api.application.routes
        for method in route.methods
        if "{model}" in route.path and method in ("GET", "POST")
    ]
    assert len(routes) > 12
    for method, path in routes:
        answer = api(
            method, path.replace("{model}", name).replace("{number}", "1"), json={"version": 1} if method == "POST" else None
        )
        assert answer.status_code in (404, 405, 422), (method, path, answer.text)


@pytest.mark.parametrize("name", ["..%2f..%2fetc", "%2e%2e"])
def test_no_run_is_looked_for_outside_the_registry(api: Api, name: str):
    for path in ("/api/runs/{}", "/api/runs/{}/events"):
        assert api.get(path.format(name)).status_code == 404
