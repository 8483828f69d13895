"""Where a base model comes from."""

from __future__ import annotations

import pytest

from baton.config.base_models import BUNDLED, find_base_model
from baton.errors import BaseModelNotFound


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
    assert "pip install 'baton[offline]'" in message


def test_an_impossible_hub_id_is_a_baton_error_too(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelNotFound, match="'too/many/parts'"):
        find_base_model("too/many/parts")
