"""Makes the model that training starts from smaller (``training.prune``): fewer layers, fewer feed-forward units in each.

What does least for texts of the training rows is removed, without a look at their labels. The result is a plain Hugging Face
directory, which is smaller and faster by itself: its ``config.json`` names fewer layers and units. Attention heads stay. They
could be removed only by a configuration that no current model of transformers reads (docs/adr/0023).
"""

from __future__ import annotations

import inspect
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional

from baton.artifacts.storage import Storage
from baton.config.base_models import find_base_model, read_config
from baton.engines.torch_engine import OVERHEAD_TOKENS, load_model
from baton.errors import ConfigError
from baton.predict.packing import pack
from baton.tasks import AnyTask
from training.data.batches import Collator, encode, features
from training.fit import weights
from training.fit.request import TrainingRequest
from training.fit.start import select_rows
from training.fit.tuning import layer_stack
from training.methods.pooling import CONFIG_KEY

SAMPLE = 512
"""Training rows whose texts show what layers and units do."""

MAX_PASS_TOKENS = 4096
"""Maximum tokens of one forward pass, padding included."""

WIDTH_NAMES = ("intermediate_size", "hidden_dim", "ffn_dim")
"""Names of the number of feed-forward units in ``config.json``, by family."""

BY_LAYER = ("layer_types", "attention_window")
"""Names in ``config.json`` of lists with a value for each layer."""

STEP = 8
"""Numbers of units are multiples of it, where there are many: matrix kernels are made for such shapes."""

TOLERANCE = 1e-4
"""Most by which logits of the saved model may differ from those of the model in memory."""

Batches = Sequence[Mapping[str, torch.Tensor]]


@contextmanager
def prune(request: TrainingRequest) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Prune the model that ``request`` starts from.

    Yield the directory of the smaller one, which ends with the ``with`` block, and facts for the lineage.

    Raises:
        ConfigError: the model's family has no layers or units that can be removed in this way.
    """
    settings = request.settings
    wanted = settings.training.prune
    assert wanted is not None
    storage = Storage(request.storage, patient=True)
    base_config = read_config(find_base_model(settings.base_model))
    with tempfile.TemporaryDirectory(prefix="baton-pruning-") as scratch:
        origin = weights.fetch(request.start, settings, storage, Path(scratch) / "model")
        task = settings.make_task(request.dataset.labels)
        transformers.set_seed(settings.training.seed)  # for the weights of a fresh head
        model = origin.load(type(task), task.labels).eval().requires_grad_(False)
        directory = Path(scratch) / "pruned"
        wrapper = transformers.AutoTokenizer.from_pretrained(
            str(origin.directory), local_files_only=True, trust_remote_code=False
        )
        tokenizer, pad_id = weights.save_tokenizer(wrapper, origin.directory, directory)
        rows = select_rows(request.start, settings, storage, request.dataset.uri).train
        sample = random.Random(settings.training.seed).sample(list(rows), min(SAMPLE, len(rows)))
        windows = encode(task, task.prepare_tokenizer(tokenizer), sample)
        collate = Collator(pad_id, inspect.signature(model.forward).parameters.keys() - {"labels"})
        inputs = features(task, windows, sample)
        lengths = np.array([len(row["input_ids"]) for row in inputs])
        batches = [
            collate([inputs[index] for index in batch]) for batch in pack(lengths, MAX_PASS_TOKENS, OVERHEAD_TOKENS["cpu"])
        ]
        before = model.num_parameters()
        width = units_left(base_config, wanted.units) if wanted.units else None
        shrink(model, task, batches, directory, layers=wanted.layers, width=width)
        yield directory, {"layers": len(layer_stack(model)), "parameters": model.num_parameters(), "parameters_before": before}


def shrink(model: Any, task: AnyTask, batches: Batches, directory: Path, *, layers: int | None, width: int | None) -> None:
    """Leave ``layers`` layers and ``width`` units in each of them (None: all), and save ``model`` to ``directory``.

    Raises:
        ConfigError: that is not possible for the model's family, or the saved model would answer otherwise.
    """
    family = model.config.model_type
    try:
        if layers is not None:
            drop_layers(model, layers, batches)
        if width is not None:
            narrow(model, width, batches)
        model.save_pretrained(str(directory))
        same = answers_alike(model, load_model(task.auto_model, directory), batches[0], task.heads)
    except ConfigError:
        raise
    except Exception as error:  # families differ in ways that no list holds: what cannot be cut, saved and loaded is refused
        raise ConfigError(f"training.prune: {family} models cannot be made smaller in this way: {error}") from error
    if not same:
        raise ConfigError(f"training.prune: {family} models cannot be made smaller in this way: saved, they answer otherwise")


def answers_alike(model: Any, loaded: Any, batch: Mapping[str, torch.Tensor], heads: Sequence[str]) -> bool:
    """Return whether two models give the same logits."""
    with torch.no_grad():
        ours, theirs = model(**batch), loaded.eval()(**batch)
    return all(torch.allclose(ours[head], theirs[head], atol=TOLERANCE) for head in heads)


# --- layers --------------------------------------------------------------------------------------------------------------


def drop_layers(model: Any, keep: int, batches: Batches) -> None:
    """Remove the encoder layers of ``model`` that change their input least, until ``keep`` are left.

    The averaging layer of few-shot training is not counted and stays. Nothing happens if there are not more layers.

    Raises:
        ConfigError: ``config.json`` does not count the layers of the family as they are.
    """
    stack = layer_stack(model)
    if model.config.num_hidden_layers != len(stack):
        raise ConfigError(f"training.prune.layers: layers of {model.config.model_type} models cannot be removed; use units")
    averaging = int(bool(getattr(model.config, CONFIG_KEY, False)))
    candidates = len(stack) - averaging
    if candidates <= keep:
        return
    influence = layer_influence(model, stack, batches)[:candidates]
    dropped = set(np.argsort(influence, kind="stable")[: candidates - keep].tolist())
    kept = [number for number in range(len(stack)) if number not in dropped]
    for number in sorted(dropped, reverse=True):
        del stack[number]
    for name in BY_LAYER:
        values = getattr(model.config, name, None)
        if values is not None:
            setattr(model.config, name, [values[number] for number in kept])
    model.config.num_hidden_layers = len(stack)


def layer_influence(model: Any, stack: nn.ModuleList, batches: Batches) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how much each layer of ``stack`` changes its input, [layers].

    That is 1 minus the cosine of a token's vector before and after the layer, averaged over the tokens (Men et al. 2024,
    «ShortGPT: Layers in Large Language Models are More Redundant Than You Expect», block influence).
    """
    totals = np.zeros(len(stack))

    def measure(number: int, before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor) -> None:
        totals[number] += float((1 - functional.cosine_similarity(before, after, dim=-1))[mask].sum())

    for batch in batches:
        mask = batch["attention_mask"].bool()

        def hook(number: int, mask: torch.Tensor = mask) -> Callable[..., None]:
            def note(_: Any, arguments: Any, named: Any, output: Any) -> None:
                before = arguments[0] if arguments else named["hidden_states"]
                measure(number, before, output[0] if isinstance(output, tuple) else output, mask)

            return note

        with _hooked([layer.register_forward_hook(hook(number), with_kwargs=True) for number, layer in enumerate(stack)]):
            model(**batch)
    return totals / sum(int(batch["attention_mask"].sum()) for batch in batches)


# --- units ---------------------------------------------------------------------------------------------------------------


def narrow(model: Any, width: int, batches: Batches) -> None:
    """Keep the ``width`` feed-forward units of each layer that contribute most. Nothing happens if there are not more.

    A unit contributes the norm of its activations times that of the weights by which they are read (Sun et al. 2024, «A Simple
    and Effective Pruning Approach for Large Language Models», summed over a column).

    Raises:
        ConfigError: the feed-forward part of the family is not made of linear layers with that many units.
    """
    before = units_of(model.config.to_dict())
    if before <= width:
        return
    parts = [_feed_forward(layer, before, model.config.model_type) for layer in layer_stack(model)]
    squares = [torch.zeros(before) for _ in parts]

    def hook(number: int) -> Callable[..., None]:
        def note(_: Any, inputs: tuple[torch.Tensor]) -> None:
            squares[number] += inputs[0].float().square().flatten(0, -2).sum(0)

        return note

    with _hooked([down.register_forward_pre_hook(hook(number)) for number, (_, down) in enumerate(parts)]):
        for batch in batches:
            model(**batch)
    for (ups, down), square in zip(parts, squares, strict=True):
        kept = (square.sqrt() * down.weight.norm(dim=0)).topk(width).indices.sort().values
        for up in ups:
            up.weight, up.out_features = nn.Parameter(up.weight[kept].clone(), requires_grad=False), width
            if up.bias is not None:
                up.bias = nn.Parameter(up.bias[kept].clone(), requires_grad=False)
        down.weight, down.in_features = nn.Parameter(down.weight[:, kept].clone(), requires_grad=False), width
    for name in WIDTH_NAMES:
        if getattr(model.config, name, None) == before:
            setattr(model.config, name, width)


def _feed_forward(layer: nn.Module, width: int, family: str) -> tuple[list[nn.Linear], nn.Linear]:
    """Return the linear layers that make ``width`` units, one or (with a gate) two, and the one that reads them."""
    linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    downs = [module for module in linear if module.in_features == width != module.out_features]
    ups = [module for module in linear if module.out_features == width != module.in_features]
    if len(downs) != 1 or len(ups) not in (1, 2):
        raise ConfigError(f"training.prune.units: feed-forward units of {family} models cannot be removed; use layers")
    return ups, downs[0]


def units_of(config: Mapping[str, Any]) -> int:
    """Return the number of units in each layer. Raise ``ConfigError`` if the configuration names none."""
    width = next((config[name] for name in WIDTH_NAMES if config.get(name)), None)
    if width is None:
        raise ConfigError(
            f"training.prune.units: the configuration of {config.get('model_type')} models names no feed-forward units; use "
            "layers"
        )
    return int(width)


def units_left(config: Mapping[str, Any], share: float) -> int:
    """Return how many units are left of those of a base model if ``share`` of them is removed."""
    return max(STEP, round(units_of(config) * (1 - share) / STEP) * STEP)


@contextmanager
def _hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Run a block of forward passes, and remove the hooks at its end."""
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
