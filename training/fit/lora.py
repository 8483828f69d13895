"""Low-rank adapters beside the encoder's linear layers (Hu et al. 2021, «LoRA»), by peft.

While it trains, a layer computes Wx + (α/r)·BAx, and only A and B learn. A checkpoint holds W + (α/r)·BA: a plain Hugging Face
directory, which is published and served like any other. Beside it lie A, B and the head as they are, for a worker that resumes:
out of the sum nobody gets them back.
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
"""What is trained, as it is, in a checkpoint."""


def add_adapters(model: Any, stack: torch.nn.ModuleList, training: TrainingSettings) -> None:
    """Put adapters beside every linear layer of ``stack``, the encoder's layers; they alone, and what may learn already, learn.

    Raises:
        ConfigError: the layers have no linear ones (GPT-2's are convolutions).
    """
    inside = {module for module in stack.modules() if type(module) is torch.nn.Linear}
    targets = [name for name, module in model.named_modules() if module in inside]
    if not targets:
        raise ConfigError(
            f"training.tune: lora needs linear layers, and the encoder of {type(model).__name__} has none; "
            "allowed for this base model: full, head, last_n"
        )
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rank, alpha, dropout = training.lora_rank, training.lora_alpha, training.lora_dropout
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets), model)
    for parameter in learning:  # peft froze it
        parameter.requires_grad_(True)
    for layer in layers(model).values():
        layer.cast_input_dtype_enabled = False  # autocast picks the arithmetic: going by fp32 would only take time


def layers(model: Any) -> dict[str, Any]:
    """The layers of ``model`` that have adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def merged(model: Any) -> dict[str, torch.Tensor]:
    """The state of ``model`` as if it had been trained without adapters; ``model`` itself is left as it is."""
    state = dict(model.state_dict())
    for path, layer in layers(model).items():
        for name in [name for name in state if name.startswith(f"{path}.")]:
            tensor = state.pop(name)
            if name.startswith(f"{path}.base_layer."):
                state[name.replace(".base_layer.", ".")] = tensor
        with torch.no_grad():
            state[f"{path}.weight"] = layer.base_layer.weight + sum(map(layer.get_delta_weight, layer.active_adapters))
    return state


class AdapterTrainer(OrderedTrainer):
    """A `Trainer` whose checkpoints hold the merged weights, and which resumes from the adapters beside them."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, merged(self.model) if self.args.should_save else state_dict)
        if self.args.should_save:
            learnt = {name: it.detach().contiguous() for name, it in self.model.named_parameters() if it.requires_grad}
            save_file(learnt, Path(output_dir or self.args.output_dir) / ADAPTERS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / ADAPTERS)
        wanted = {name for name, it in self.model.named_parameters() if it.requires_grad}
        if state.keys() != wanted:
            raise ValueError(f"{resume_from_checkpoint}/{ADAPTERS} is of another model: {sorted(state.keys() ^ wanted)[:3]} …")
        self.model.load_state_dict(state, strict=False)
