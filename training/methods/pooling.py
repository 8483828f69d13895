"""Lets a classifier see the mean of a text's tokens without leaving its architecture.

A sentence encoder's embedding is the mean of its token vectors; transformers' classifiers look at the first token alone.
`pool_mean` appends one encoder layer that hands every token the mean of all, so that the saved model stays a plain one of its
family, which serving and ``from_pretrained`` load as ever (docs/adr/0007).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from baton.errors import ConfigError

STRENGTH = 1000.0
"""How much larger the mean is than the residual beside it. Normalising takes the factor out again; even fp16 can hold it."""

MARK = "baton_pools_mean"
"""Key in ``config.json`` of a model that has the layer already."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where a family keeps its layers, the parts of one, and the head. Paths are dotted."""

    layers: str
    query: str
    value: str
    joined: str
    joined_norm: str
    narrowed: str
    narrowed_norm: str
    dense: str
    """The head's first layer, which an activation follows."""
    head: str
    shift: float
    """``dense`` becomes identity + shift. tanh takes normalised features as they are: bent, they separate texts as well."""


_BERT = Family(
    layers="bert.encoder.layer",
    query="attention.self.query",
    value="attention.self.value",
    joined="attention.output.dense",
    joined_norm="attention.output.LayerNorm",
    narrowed="output.dense",
    narrowed_norm="output.LayerNorm",
    dense="bert.pooler.dense",
    head="classifier",
    shift=0.0,
)
_ROBERTA = replace(_BERT, layers="roberta.encoder.layer", dense="classifier.dense", head="classifier.out_proj")

FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        layers="distilbert.transformer.layer",
        query="attention.q_lin",
        value="attention.v_lin",
        joined="attention.out_lin",
        joined_norm="sa_layer_norm",
        narrowed="ffn.lin2",
        narrowed_norm="output_layer_norm",
        dense="pre_classifier",
        head="classifier",
        shift=4.0,  # ReLU is straight above 0; normalised features below −4 are rare
    ),
}
"""By ``model_type``. MPNet is not among them: its layers share a bias by position, which no weight of one layer can undo."""


def family_of(model: Any, name: str) -> Family:
    """The family of a sequence classifier. Raises ``ConfigError`` naming base model ``name`` for others than `FAMILIES`."""
    model_type = str(model.config.model_type)
    if model_type not in FAMILIES:
        raise ConfigError(
            f"training.few_shot: {name} is a {model_type} model, whose head few_shot cannot reach; "
            f"allowed: {', '.join(FAMILIES)}. Use tune: head"
        )
    return FAMILIES[model_type]


@torch.no_grad()  # type: ignore[untyped-decorator]
def pool_mean(model: Any, family: Family) -> None:
    """Append the averaging layer to a sequence classifier, and let the head pass its features on.

    The layer is a copy of the last one in which no token asks for anything (queries are 0, so attention is uniform over all
    tokens that are no padding), values pass as they are, the outcome is `STRENGTH` times as large as the residual, and the
    feed-forward part adds nothing. What keeps its weights (keys, the first half of the feed-forward part) lets a later
    training teach the layer more. Nothing happens when the model has it already.
    """
    if getattr(model.config, MARK, False):
        return
    layers = model.get_submodule(family.layers)
    layer = copy.deepcopy(layers[-1])
    for name, scale in ((family.query, 0.0), (family.value, 1.0), (family.joined, STRENGTH), (family.narrowed, 0.0)):
        _set_diagonal(layer.get_submodule(name), scale)
    for name in (family.joined_norm, family.narrowed_norm):
        norm = layer.get_submodule(name)
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    layers.append(layer)
    _set_diagonal(model.get_submodule(family.dense), 1.0, family.shift)
    model.config.num_hidden_layers += 1
    setattr(model.config, MARK, True)


def _set_diagonal(linear: Any, scale: float, shift: float = 0.0) -> None:
    """``linear`` as scale · identity + shift; 0 where it is not square."""
    nn.init.eye_(linear.weight).mul_(scale)
    nn.init.constant_(linear.bias, shift)
