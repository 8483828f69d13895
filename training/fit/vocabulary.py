"""Trains only the rows of the word embeddings that the data uses; the others would get gradients of zero.

A fine-tuning set uses a few thousand of a vocabulary's tens of thousands of tokens, and small models are mostly vocabulary:
half of all-MiniLM-L6-v2. The rows left out cost no gradient, no step and no optimiser state, in memory or in checkpoints, and
keep the base model's values exactly, where weight decay would shrink them (docs/adr/0005 has the gain).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


class SeenEmbedding(nn.Module):  # type: ignore[misc]
    """The rows ``seen`` of an embedding as the parameter ``weight``; from outside it saves and loads like the whole one.

    ``forward`` takes ids of the whole vocabulary. An id that is not in ``seen`` raises ``IndexError``.
    """

    def __init__(self, whole: nn.Embedding, seen: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(whole.weight.detach()[seen].clone())
        self._whole = whole.weight.detach()
        place = torch.full((whole.num_embeddings,), len(seen), dtype=torch.long)  # one beyond the last row
        place[seen] = torch.arange(len(seen))
        self._padding = None if whole.padding_idx is None or whole.padding_idx not in seen else int(place[whole.padding_idx])
        self.register_buffer("_seen", seen, persistent=False)
        self.register_buffer("_place", place, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., hidden] of ``ids`` [...]."""
        return nn.functional.embedding(self._place[ids], self.weight, self._padding)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        whole = self._whole.to(self.weight.device, copy=True)
        whole[self._seen] = self.weight.detach()
        destination[prefix + "weight"] = whole

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        rows = state_dict[prefix + "weight"][self._seen.cpu()]
        super()._load_from_state_dict({prefix + "weight": rows}, prefix, *others)


def narrow(model: Any, windows: Iterable[Iterable[int]]) -> None:
    """Let ``model`` train the embeddings of the token ids in ``windows`` only; those of padding must be among them.

    Nothing happens when the embeddings are frozen, or when another layer shares them.
    """
    whole = model.get_input_embeddings()
    shared = sum(parameter is whole.weight for _, parameter in model.named_parameters(remove_duplicate=False)) > 1
    if type(whole) is not nn.Embedding or not whole.weight.requires_grad or shared:
        return
    seen = set().union(*windows)
    model.set_input_embeddings(SeenEmbedding(whole, torch.tensor(sorted(seen))))
