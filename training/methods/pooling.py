"""Mean pooling for classifiers whose architecture has none.

The embedding of a sentence encoder is the mean of its token vectors, but transformers' classifiers use the first token alone.
`pool_mean` appends one encoder layer that gives every token the mean of all tokens. The saved model stays a plain model of its
family, which serving and ``from_pretrained`` load like any other (docs/adr/0007).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from baton.errors import ConfigError

MEAN_SCALE = 1000.0
"""Factor by which the mean is larger than the residual that is added to it. The layer norm removes the factor again, and its
values fit into fp16."""

CONFIG_KEY = "baton_pools_mean"
"""Key in ``config.json`` of a model that has the layer already."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The dotted paths of a model family's modules. Those of a layer's parts are relative to the layer."""

    layers: str
    """The encoder's list of layers."""
    query: str
    """Of a layer: the projection of the queries."""
    value: str
    """Of a layer: the projection of the values."""
    attention_output: str
    """Of a layer: the projection after the attention."""
    attention_norm: str
    """Of a layer: the layer norm after the attention."""
    feed_forward_output: str
    """Of a layer: the second projection of the feed-forward part."""
    feed_forward_norm: str
    """Of a layer: the layer norm after the feed-forward part."""
    dense: str
    """The first layer of the head, which an activation function follows."""
    head: str
    """The last layer of the head, whose outputs are the logits."""
    dense_shift: float
    """``dense`` becomes identity + this shift, so that the activation function passes the features on. 0 for tanh: it bends
    normalised features, but bent features separate texts as well."""


_BERT = Family(
    layers="bert.encoder.layer",
    query="attention.self.query",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    feed_forward_output="output.dense",
    feed_forward_norm="output.LayerNorm",
    dense="bert.pooler.dense",
    head="classifier",
    dense_shift=0.0,
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
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        feed_forward_output="ffn.lin2",
        feed_forward_norm="output_layer_norm",
        dense="pre_classifier",
        head="classifier",
        dense_shift=4.0,  # ReLU passes values above 0 unchanged, and normalised features below −4 are rare
    ),
}
"""The supported families, by ``model_type``. MPNet is not supported: its layers share a bias by position, which the weights of
one layer cannot cancel."""


def family_of(model: Any, name: str) -> Family:
    """Return the family of a sequence classifier with the base model ``name``.

    Raises:
        ConfigError: the family is not one of `FAMILIES`.
    """
    model_type = str(model.config.model_type)
    if model_type not in FAMILIES:
        raise ConfigError(
            f"training.few_shot does not support {model_type} models, and {name} is one; "
            f"allowed: {', '.join(FAMILIES)}. Use training.tune: head instead"
        )
    return FAMILIES[model_type]


@torch.no_grad()  # type: ignore[untyped-decorator]
def pool_mean(model: Any, family: Family) -> None:
    """Append an averaging layer to a sequence classifier, and make the head's first layer pass its features on.

    The averaging layer is a copy of the last layer with these changes:

    - Queries are 0, so attention is uniform over all tokens but padding.
    - Values pass unchanged, and the attention's output is multiplied by `MEAN_SCALE`, so that the residual hardly counts.
    - The feed-forward part adds nothing.

    The keys and the first projection of the feed-forward part keep their weights, so that a later training can change what the
    layer does. Nothing happens if the model has the layer already.
    """
    if getattr(model.config, CONFIG_KEY, False):
        return
    layers = model.get_submodule(family.layers)
    layer = copy.deepcopy(layers[-1])
    diagonals = {family.query: 0.0, family.value: 1.0, family.attention_output: MEAN_SCALE, family.feed_forward_output: 0.0}
    for name, scale in diagonals.items():
        _set_diagonal(layer.get_submodule(name), scale)
    for name in (family.attention_norm, family.feed_forward_norm):
        norm = layer.get_submodule(name)
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    layers.append(layer)
    _set_diagonal(model.get_submodule(family.dense), 1.0, family.dense_shift)
    model.config.num_hidden_layers += 1
    setattr(model.config, CONFIG_KEY, True)


def _set_diagonal(linear: Any, scale: float, shift: float = 0.0) -> None:
    """Set the weight of ``linear`` to scale · identity (which need not be square) and its bias to ``shift``."""
    nn.init.eye_(linear.weight).mul_(scale)
    nn.init.constant_(linear.bias, shift)
