"""Lets a transformers model write: beam search within bounds, which ends when nobody waits for the answer.

Training validates with it, and the torch engine serves with it. Knows neither tasks nor tokenizers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from baton.errors import NotFinite
from baton.generation import Generation

END = -1
"""Stands behind the last token of an answer, instead of the ids of its end and of padding."""


def write(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, generation: Generation, abandoned: Callable[[], bool] = lambda: False
) -> torch.Tensor:
    """Return the ids [rows, tokens] that ``model`` writes for the sources ``ids`` [rows, tokens], then `END`.

    The same source gets the same answer, whatever the model's configuration says about chance. The rest of it holds, such as
    penalties and the first token of BART's answers. Once ``abandoned()`` is true the model stops where it is.

    Raises:
        NotFinite: the model gives NaN.
    """
    written = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=_configuration(model, generation),
        logits_processor=[_RequireNumbers()],
        stopping_criteria=[_Abandoned(abandoned)],
    )
    tokens = written[:, 1:]  # the first one tells the decoder to start
    ends = torch.isin(tokens, torch.tensor(_end_ids(model), device=tokens.device))
    return tokens.masked_fill(ends.cumsum(dim=1) > 0, END)


def _configuration(model: Any, generation: Generation) -> Any:
    configuration = copy.deepcopy(model.generation_config)
    configuration.update(
        max_length=None,
        max_new_tokens=generation.max_new_tokens,
        min_length=min(configuration.min_length or 0, generation.max_new_tokens),
        num_beams=generation.num_beams,
        num_return_sequences=1,
        do_sample=False,
    )
    return configuration


def _end_ids(model: Any) -> list[int]:
    found = model.generation_config.eos_token_id
    return [] if found is None else [found] if isinstance(found, int) else list(found)


class _Abandoned(StoppingCriteria):  # type: ignore[misc]
    """Ends every answer once nobody waits."""

    def __init__(self, abandoned: Callable[[], bool]) -> None:
        self._abandoned = abandoned

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._abandoned(), dtype=torch.bool, device=input_ids.device)


class _RequireNumbers(LogitsProcessor):  # type: ignore[misc]
    """Raises ``NotFinite`` for a model whose training diverged; the search would make some text of NaN."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if bool(scores.isnan().any()):
            raise NotFinite("the model's logits are not numbers for some inputs; did its training diverge?")
        return scores
