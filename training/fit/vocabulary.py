"""Trains only the rows of the word embeddings that the data uses. The other rows would get gradients of zero.

A fine-tuning set uses a few thousand of a vocabulary's tens of thousands of tokens, and small models are mostly vocabulary:
half of all-MiniLM-L6-v2. The rows left out cost no gradient, no step and no optimiser state, in memory or in checkpoints. They
keep the base model's values exactly, where weight decay would shrink them (docs/adr/0005 has the gain).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


class SeenEmbedding(nn.Module):  # type: ignore[misc]
    """An embedding of which only the rows ``seen`` [n] are a parameter (``weight`` [n, hidden]).

    It takes the token ids of the whole vocabulary, and saves and loads the weights of the whole vocabulary. An id that is not
    in ``seen`` raises ``IndexError``.
    """

    def __init__(self, whole: nn.Embedding, seen: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(whole.weight.detach()[seen].clone())
        self._whole = whole.weight.detach()
        # Row of ``weight`` for each token id. Example: 5 tokens, seen [0, 3] → [0, 2, 2, 1, 2]; 2 is no row, so it raises.
        row_of_id = torch.full((whole.num_embeddings,), len(seen), dtype=torch.long)
        row_of_id[seen] = torch.arange(len(seen))
        has_padding = whole.padding_idx is not None and whole.padding_idx in seen
        self._padding = int(row_of_id[whole.padding_idx]) if has_padding else None
        self.register_buffer("_seen", seen, persistent=False)
        self.register_buffer("_row_of_id", row_of_id, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings [..., hidden] of ``ids`` [...]."""
        return nn.functional.embedding(self._row_of_id[ids], self.weight, self._padding)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        whole = self._whole.to(self.weight.device, copy=True)
        whole[self._seen] = self.weight.detach()
        destination[prefix + "weight"] = whole

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        rows = state_dict[prefix + "weight"][self._seen.cpu()]
        super()._load_from_state_dict({prefix + "weight": rows}, prefix, *others)


def train_seen_embeddings(model: Any, windows: Iterable[Iterable[int]]) -> None:
    """Let ``model`` train the embeddings of the token ids in ``windows`` only. The padding id must be among them.

    Nothing changes if the embeddings are frozen, or if another layer shares their weights.
    """
    whole = model.get_input_embeddings()
    shared = sum(parameter is whole.weight for _, parameter in model.named_parameters(remove_duplicate=False)) > 1
    if type(whole) is not nn.Embedding or not whole.weight.requires_grad or shared:
        return
    seen = set().union(*windows)
    model.set_input_embeddings(SeenEmbedding(whole, torch.tensor(sorted(seen))))
