"""Runs models with PyTorch, in fp32 or bf16, on CPU or GPU. The only module through which torch reaches the predictor."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch.backends import mkldnn

from baton.engines.base import Batch, EngineSettings, Logits
from baton.errors import ConfigError, CorruptVersion

OVERHEAD_TOKENS = {"cpu": 96, "cuda": 4096}
"""Cost of starting a forward pass (`Engine.overhead_tokens`), as estimates: they choose how batches are cut, not what they
answer. On 2 CPU cores a pass of one short text takes about as long as a hundred more tokens do; the GPU's is a guess."""


def bf16_pays(device: str) -> bool:
    """Whether bf16 arithmetic runs in hardware there. On CPUs that lack it, bf16 is emulated and slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_device(wanted: str) -> str:
    """``cpu`` or ``cuda``. Raises ``ConfigError`` when a GPU is asked for and none is visible."""
    if wanted == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device: 'gpu' was asked for, but no GPU is visible to this process; allowed here: auto, cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def load_model(auto_model: str, directory: Path | str, labels: Sequence[str] | None = None) -> Any:
    """A transformers model in fp32 from a directory, with a fresh head when ``labels`` are given: one output for each of
    them, or, when they are empty, the head that its class has by default (a question-answering model's).

    Only safetensors are read and no code from the directory is run.

    Raises:
        ValueError: the directory lacks weights (without ``labels``: the head's too, which would be random).
    """
    extra: dict[str, Any] = {}
    if labels is not None:
        extra = {"ignore_mismatched_sizes": True}
    if labels:
        extra |= {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
        }
    model, found = getattr(transformers, auto_model).from_pretrained(
        str(directory),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        **extra,
    )
    if labels is None and found["missing_keys"]:
        raise ValueError(f"weights are missing: {', '.join(sorted(found['missing_keys']))}")
    return model


class TorchEngine:
    """One model in evaluation mode."""

    def __init__(self, directory: Path, auto_model: str, heads: Sequence[str], settings: EngineSettings) -> None:
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        device = pick_device(settings.device)
        bf16 = settings.precision == "bf16" or (settings.precision == "auto" and bf16_pays(device))
        try:
            model = load_model(auto_model, directory)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # RuntimeError: a wrong shape
            raise CorruptVersion(f"{directory} does not load as {auto_model}: {error}") from error
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device, torch.bfloat16 if bf16 else torch.float32)
        self._accepts = frozenset(inspect.signature(model.forward).parameters)  # DistilBERT, say, has no token_type_ids
        self._heads = tuple(heads)
        self.overhead_tokens = OVERHEAD_TOKENS[device]
        self.description = f"torch {'gpu' if device == 'cuda' else 'cpu'} {'bf16' if bf16 else 'fp32'}"

    def forward(self, batch: Batch) -> Logits:
        """One forward pass without autograd; logits come back as fp32."""
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in batch.items() if name in self._accepts}
        with torch.inference_mode():
            output = self._model(**tensors)
            return {name: _to_numpy(output[name]) for name in self._heads}


def _to_numpy(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
