"""Low-rank adapters for the encoder's linear layers (Hu et al. 2021, «LoRA»), by peft.

In training a layer computes Wx + (α/r)·BAx, and only A and B learn. A checkpoint holds the merged weights W + (α/r)·BA: a plain
Hugging Face directory, which is published and served like any other. A, B and the head are saved beside it for a worker that
resumes, because A and B cannot be computed from the merged weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from baton.config.training_settings import TrainingSettings
from baton.errors import ConfigError
from training.data.batches import OrderedTrainer

ADAPTERS = "adapters.safetensors"
"""File of a checkpoint with all trained parameters (adapters and head), before merging."""


def add_adapters(model: Any, stack: torch.nn.ModuleList, training: TrainingSettings) -> None:
    """Add adapters to every linear layer of ``stack``, the encoder's layers.

    After that the adapters learn, and the parameters that had gradients before (the head).

    Raises:
        ConfigError: the encoder has no linear layers (GPT-2's are convolutions).
    """
    linear_layers = {module for module in stack.modules() if type(module) is torch.nn.Linear}
    targets = [name for name, module in model.named_modules() if module in linear_layers]
    if not targets:
        raise ConfigError(
            f"training.tune: lora needs linear layers, and the encoder of {type(model).__name__} has none; "
            "allowed for this base model: full, head, last_n"
        )
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rank, alpha, dropout = training.lora_rank, training.lora_alpha, training.lora_dropout
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets), model)
    for parameter in learning:  # peft freezes all parameters but the adapters
        parameter.requires_grad_(True)
    for layer in adapted_layers(model).values():
        layer.cast_input_dtype_enabled = False  # autocast chooses the precision: peft's cast to fp32 would only cost time


def adapted_layers(model: Any) -> dict[str, Any]:
    """Return the layers of ``model`` that have adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def merged_state(model: Any) -> dict[str, torch.Tensor]:
    """Return the state of ``model`` with the adapters merged into the weights. ``model`` itself does not change."""
    state = dict(model.state_dict())
    for path, layer in adapted_layers(model).items():
        for name in [name for name in state if name.startswith(f"{path}.")]:
            tensor = state.pop(name)
            if name.startswith(f"{path}.base_layer."):
                state[name.replace(".base_layer.", ".")] = tensor
        with torch.no_grad():
            state[f"{path}.weight"] = layer.base_layer.weight + sum(map(layer.get_delta_weight, layer.active_adapters))
    return state


class AdapterTrainer(OrderedTrainer):
    """A `Trainer` that saves the merged weights in its checkpoints, and resumes from the adapters saved beside them."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, merged_state(self.model) if self.args.should_save else state_dict)
        if self.args.should_save:
            trained = {name: it.detach().contiguous() for name, it in self.model.named_parameters() if it.requires_grad}
            save_file(trained, Path(output_dir or self.args.output_dir) / ADAPTERS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / ADAPTERS)
        expected = {name for name, it in self.model.named_parameters() if it.requires_grad}
        if state.keys() != expected:
            differing = sorted(state.keys() ^ expected)
            raise ValueError(
                f"{resume_from_checkpoint}/{ADAPTERS} does not fit this model; parameters that differ: {differing[:3]}"
            )
        self.model.load_state_dict(state, strict=False)
