"""Which parameters of a model a run trains (``training.tune``). The others get no gradients."""

from __future__ import annotations

from typing import Any

import torch

from baton.config.training_settings import TrainingSettings


def tune(model: Any, training: TrainingSettings) -> None:
    """Enable gradients for the parameters that ``training.tune`` names, and disable them for all others.

    Raises:
        ConfigError: ``tune`` is ``lora``, and the model's encoder has no linear layers.
    """
    if training.tune == "full":
        return
    stack = encoder_and_decoder(model) if model.config.is_encoder_decoder else layer_stack(model)
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_("pooler" in name)
    if training.tune == "last_n":
        stack[-training.last_n :].requires_grad_(True)
    if training.tune == "lora":
        from training.fit.lora import add_adapters  # peft takes a second to load, and most runs do not need it

        add_adapters(model, stack, training)


def encoder_and_decoder(model: Any) -> torch.nn.ModuleList:
    """Return both halves of a model that writes."""
    return torch.nn.ModuleList([model.get_encoder(), model.get_decoder()])


def layer_stack(model: Any) -> torch.nn.ModuleList:
    """Return the encoder's layers: the largest list of modules in ``base_model``.

    The encoder is the embeddings and the stack of layers; the pooler and everything outside ``base_model`` is the head.
    """
    stacks = [module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(stacks, key=lambda module: sum(parameter.numel() for parameter in module.parameters()))
