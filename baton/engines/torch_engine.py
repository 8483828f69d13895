"""Runs models with PyTorch, in fp32 or bf16, on CPU or GPU. The predictor uses torch only through this module.

`torch_writing` lets models that write texts write.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch.backends import mkldnn

from baton.engines.base import Batch, EngineSettings, Logits
from baton.engines.torch_writing import write
from baton.errors import ConfigError, CorruptVersion
from baton.generation import Generation

OVERHEAD_TOKENS = {"cpu": 96, "cuda": 4096}
"""Estimates of `Engine.overhead_tokens` for each device, until they are measured. On 2 CPU cores, starting a pass takes about
as long as a hundred tokens. The value for GPUs is a guess."""

LENGTH_STEP = 8
"""Torch's matrix kernels are faster on such shapes, and there are fewer shapes."""


def has_fast_bf16(device: str) -> bool:
    """Return whether ``device`` has bf16 arithmetic in hardware. CPUs without it emulate bf16, slower than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_device(requested: str) -> str:
    """Return ``cpu`` or ``cuda``. Raises ``ConfigError`` if a GPU is requested and none is visible."""
    if requested == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device: 'gpu' is configured, but no GPU is visible to this process; allowed here: auto, cpu")
    return "cuda" if requested != "cpu" and torch.cuda.is_available() else "cpu"


_loading = threading.Lock()
"""transformers takes a method of its classes away while it loads a model. Two loads at once may leave it away for good; tied
weights are then not tied."""


def load_model(auto_model: str, directory: Path | str, labels: Sequence[str] | None = None, *, pickled: bool = False) -> Any:
    """Load a transformers model in fp32 from a directory. Only safetensors are read; no code from the directory is run.

    Args:
        labels: None to load the model with its head. A list to give the model a new head with one output for each label.
            An empty list to give it the head that its class has by default, as for question answering.
        pickled: read ``pytorch_model.bin`` instead, by torch's unpickler for tensors alone, which runs no code either. Only to
            convert it: versions are safetensors.

    Raises:
        ValueError: if ``labels`` is None and weights are missing, in the head or elsewhere: they would be random.
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
    with _loading:
        model, found = getattr(transformers, auto_model).from_pretrained(
            str(directory),
            local_files_only=True,
            use_safetensors=not pickled,
            weights_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **extra,
        )
    if labels is None and found["missing_keys"]:
        raise ValueError(f"weights are missing: {', '.join(sorted(found['missing_keys']))}")
    return model


class TorchEngine:
    """A model that PyTorch runs, in evaluation mode."""

    def __init__(self, directory: Path, auto_model: str, heads: Sequence[str], settings: EngineSettings) -> None:
        if settings.threads is not None:
            self.limit_threads(settings.threads)
        device = pick_device(settings.device)
        try:
            model = load_model(auto_model, directory)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # RuntimeError: wrong shapes
            raise CorruptVersion(f"{directory} does not load as {auto_model}: {error}") from error
        # a text that is written goes on from each token: one that rounding changes may change all that follows
        bf16 = settings.precision == "bf16" or (
            settings.precision == "auto" and has_fast_bf16(device) and not model.can_generate()
        )
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device, torch.bfloat16 if bf16 else torch.float32)
        self._accepts = frozenset(inspect.signature(model.forward).parameters)  # DistilBERT for example has no token_type_ids
        self._heads = tuple(heads)
        self.overhead_tokens = OVERHEAD_TOKENS[device]
        self.length_step = LENGTH_STEP
        self.max_rows: int | None = None
        self.description = f"torch {'gpu' if device == 'cuda' else 'cpu'} {'bf16' if bf16 else 'fp32'}"

    def forward(self, batch: Batch) -> Logits:
        """Run one forward pass without autograd and return the logits in fp32."""
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in batch.items() if name in self._accepts}
        with torch.inference_mode():
            output = self._model(**tensors)
            return {name: _to_numpy(output[name]) for name in self._heads}

    def write(self, batch: Batch, generation: Generation, abandoned: Callable[[], bool]) -> Logits:
        """Let the model write an answer to each window of ``batch``; see `baton.engines.base.WritingEngine`."""
        ids, mask = (torch.from_numpy(batch[name]).to(self._device) for name in ("input_ids", "attention_mask"))
        return {"tokens": _to_numpy(write(self._model, ids, mask, generation, abandoned))}

    def limit_threads(self, threads: int) -> None:
        """Let torch use at most so many CPU threads from now on, in the whole process."""
        torch.set_num_threads(threads)


def _to_numpy(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
