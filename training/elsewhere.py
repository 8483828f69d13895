"""A model from elsewhere → the files of a version: finds it, checks that it fits the task, names its labels and converts it.

What does not fit is an `UnusableModel`, which says what to do. No code that comes with a model is run, and nothing is unpickled
but tensors. Knows no registry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError  # what a reader of tensors alone raises at anything else
from typing import Any

import transformers
from safetensors import SafetensorError

from baton.artifacts.manifest import sha256_of
from baton.artifacts.storage import Storage
from baton.config.base_models import FILES, WRITERS, check_length, find_base_model
from baton.config.model_settings import ModelSettings
from baton.engines.torch_engine import load_model
from baton.errors import BaseModelNotFound, CorruptVersion, UnusableModel
from baton.store.records import Source
from baton.tasks import TASKS, AnyTask, task_type
from baton.wording import counted
from training.fit.weights import save_tokenizer

SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")

PATTERNS = (*FILES, "pytorch_model*.bin")
"""Names of the files of a directory that are read, fetched and compared."""

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
"""Files of which a directory with a tokenizer has one."""

PLACEHOLDER = re.compile(r"LABEL_\d+")
"""The names that transformers gives to labels that have none."""

ONE_FILE = "1000TB"
"""No model has more: its weights are saved in one file."""

LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError),
    *(SafetensorError, CorruptVersion),
)
"""What transformers and its libraries raise for a directory that they cannot use."""

PROBLEMS = {"class": "single_label_classification", "classes": "multi_label_classification"}
"""``problem_type`` of transformers' configurations by the target of the task."""

UNLABELLED = ("span", "text")
"""Targets of tasks whose models have no labels."""

WRITING_HEAD = "ForConditionalGeneration"
"""The end of the class names of models that write; that of their auto class is another."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model from elsewhere that fits its task, as far as its configuration tells."""

    location: str
    """Where it was found, for users."""
    directory: Path
    """Where its files are on this machine."""
    task_cls: type[AnyTask]
    labels: tuple[str, ...]
    """The names of its outputs, in order; () if the task has no labels."""
    files: Mapping[str, str]
    """Hex SHA-256 of each file by its name."""


def find(source: Source, settings: ModelSettings, scratch: Path) -> Found:
    """Find a model that may become a version of the model with these settings. It is downloaded to ``scratch`` if needed.

    Raises:
        UnusableModel: it is not there, or does not fit; the message says what to do.
        ConfigError: it cannot read as many tokens as ``training.max_length`` says.
        StorageError: the storage that it is in does not answer.
    """
    location, task_cls = source.location, task_type(settings.task)
    directory = _fetch(location, scratch)
    config = _read_config(location, directory)
    _check_files(location, directory)
    _check_architecture(location, config, settings.name, task_cls)
    check_length(directory, location, settings.max_length, settings.new_tokens)
    own = []
    if task_cls.target not in UNLABELLED:
        with _explained(f"{location}: its config.json cannot be used"):
            loaded = transformers.AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
            own = [str(loaded.id2label[index]) for index in range(len(loaded.id2label))]
    labels = name_labels(task_cls, own, source.labels)
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    files = {name: sha256_of(directory / name) for name in names if _matches(name, PATTERNS)}
    return Found(location=location, directory=directory, task_cls=task_cls, labels=labels, files=files)


def convert(found: Found, directory: Path) -> None:
    """Write a model to ``directory`` in the form of all versions: fp32 safetensors in one file, and a fast tokenizer.

    It is loaded with the loader that serves, so that every weight is there. Raises ``UnusableModel``.
    """
    pickled = not any((found.directory / name).is_file() for name in SAFETENSORS)
    with _explained(f"{found.location}: its weights do not load as a model for {found.task_cls.name}"):
        model = load_model(found.task_cls.auto_model, found.directory, pickled=pickled)
    with _explained(f"{found.location}: its tokenizer cannot be used"):
        wrapper = transformers.AutoTokenizer.from_pretrained(
            str(found.directory), local_files_only=True, trust_remote_code=False
        )
        tokenizer, _ = save_tokenizer(wrapper, found.directory, directory)
    tokens, embeddings = tokenizer.get_vocab_size(), model.get_input_embeddings().num_embeddings
    if tokens > embeddings:
        raise UnusableModel(
            f"{found.location}: its tokenizer has {tokens:,} tokens, and the model knows {embeddings:,}; the tokenizer belongs "
            "to another model"
        )
    if found.labels:
        model.config.id2label = dict(enumerate(found.labels))
        model.config.label2id = {label: index for index, label in enumerate(found.labels)}
    if found.task_cls.target in PROBLEMS:
        model.config.problem_type = PROBLEMS[found.task_cls.target]  # transformers' own pipelines then answer as we do
    model.save_pretrained(str(directory), max_shard_size=ONE_FILE)


def name_labels(task_cls: type[AnyTask], own: Sequence[str], names: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the labels of a model whose outputs have their ``own`` names, with the ``names`` that somebody gives to them.

    Raises ``UnusableModel``.
    """
    if task_cls.target in UNLABELLED:
        if names:
            raise UnusableModel(f"{task_cls.name} has no labels; leave out the names for them")
        return ()
    names = names or {}
    unknown = sorted(names.keys() - {*own, *map(str, range(len(own)))})
    if unknown:
        raise UnusableModel(f"the model has no label {unknown[0]!r} to name; it has {_listed(own)}")
    labels = tuple(names.get(name, names.get(str(index), name)) for index, name in enumerate(own))
    if unnamed := [label for label in labels if PLACEHOLDER.fullmatch(label)]:
        raise UnusableModel(
            f"{counted(len(unnamed), 'label')} of the model without a name: {_listed(unnamed)}. Name them: --labels FILE.json "
            f'with an object such as {{"{unnamed[0]}": "billing", …}}'
        )
    if wrong := [label for label in labels if not label.strip() or labels.count(label) > 1]:
        raise UnusableModel(f"the label {wrong[0]!r} is empty, or two outputs of the model have it; it has {_listed(labels)}")
    task_cls.check_labels(labels)
    return labels


# --- what a directory must have ------------------------------------------------------------------------------------------


def _fetch(location: str, scratch: Path) -> Path:
    """Return the local directory of a model. Only the files of `PATTERNS` are fetched."""
    if "://" in location:
        Storage(location, patient=True).copy_files(PATTERNS, scratch)
        return scratch
    if Path(location).is_dir():
        return Path(location)
    if Path(location).is_file():
        raise UnusableModel(f"{location} is a file; name the directory that it lies in")
    if location.startswith("/"):
        raise UnusableModel(f"{location}: no such directory on the node that runs this job; every node must be able to read it")
    try:
        return find_base_model(location)
    except BaseModelNotFound as error:
        raise UnusableModel(f"on the node that runs this job, {error}") from error


def _read_config(location: str, directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        raise UnusableModel(
            f"{location} has no config.json: it is not a Hugging Face model. `save_pretrained` writes such a directory: of the "
            "model, and of its tokenizer"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnusableModel(f"{location}/config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UnusableModel(f"{location}/config.json is not an object")
    return config


def _check_files(location: str, directory: Path) -> None:
    names = [path.name for path in directory.iterdir() if path.is_file()]
    if not {*SAFETENSORS, *PICKLED}.intersection(names):
        if "adapter_config.json" in names:
            raise UnusableModel(
                f"{location} has adapters without their model; merge them (`merge_and_unload` of peft) and save the whole model"
            )
        raise UnusableModel(
            f"{location} has no weights: {SAFETENSORS[0]} or {PICKLED[0]}; it has {', '.join(sorted(names)[:8])}. From the hub "
            "only safetensors are downloaded"
        )
    if not any(_matches(name, TOKENIZERS) for name in names):
        raise UnusableModel(
            f"{location} has no tokenizer; save it there: "
            "AutoTokenizer.from_pretrained(the base model).save_pretrained(the directory)"
        )


def _check_architecture(location: str, config: Mapping[str, Any], model: str, task_cls: type[AnyTask]) -> None:
    """Raise ``UnusableModel`` if the configuration says that the model does something else than the task."""
    architectures = [str(name) for name in config.get("architectures") or ()]
    if architectures and not any(name.endswith(_head(task_cls)) for name in architectures):
        fitting = [name for name, other in TASKS.items() if architectures[0].endswith(_head(other))]
        fits = f"it would fit task: {' or '.join(fitting)}" if fitting else "it has no head for any task of Baton"
        hint = "" if fitting else "; to train one from it, declare it as base_model"
        raise UnusableModel(
            f"{location} is a {architectures[0]}, and {model} (task: {task_cls.name}) needs a …{_head(task_cls)}; {fits}{hint}"
        )
    if task_cls.target == "text" and config.get("model_type") not in WRITERS:
        raise UnusableModel(
            f"{location} is a {config.get('model_type')} model, with which Baton was not tried to write; allowed: "
            f"{', '.join(WRITERS)}"
        )
    problem, expected = config.get("problem_type"), PROBLEMS.get(task_cls.target)
    if expected is not None and problem not in (None, expected):
        fitting = [name for name, other in TASKS.items() if PROBLEMS.get(other.target) == problem]
        fits = f"; it would fit task: {' or '.join(fitting)}" if fitting else ""
        raise UnusableModel(f"{location} was trained for {problem}, and {model} has task: {task_cls.name}{fits}")


def _head(task_cls: type[AnyTask]) -> str:
    """Return the end of the class names of models for a task: ``ForTokenClassification``."""
    return WRITING_HEAD if task_cls.target == "text" else task_cls.auto_model.removeprefix("AutoModel")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise what the libraries raise for a directory that they cannot use as ``UnusableModel``."""
    try:
        yield
    except UnpicklingError as error:
        raise UnusableModel(
            f"{what}: {PICKLED[0]} holds more than tensors, and to read the rest would run code. Save the model again with "
            "transformers (`save_pretrained`), which writes safetensors"
        ) from error
    except LOADING_ERRORS as error:
        raise UnusableModel(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
