"""A loaded version: typed inputs in, typed outputs out. Evaluation and serving use the same class.

It uses a model only through an `Engine`, and a task only through the `Task` contract.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from baton.artifacts.manifest import Manifest, Probe
from baton.config.model_settings import ServingSettings
from baton.engines import Engine, EngineSettings, load_engine
from baton.errors import CorruptVersion, NotFinite
from baton.predict.packing import pack
from baton.tasks import AnyTask, task_type
from baton.tasks.base import Windows

PROBE_TOLERANCE = 0.02
"""Maximum difference of a probe's scores between evaluation and a loaded copy: bf16 on another CPU rounds differently."""

LENGTH_STEP = 8
"""Batches are padded to a multiple of this: matrix kernels are faster on such shapes, and there are fewer of them."""


@dataclass
class Work:
    """Counts the tokens that went through the model. One thread writes it, any thread may read it."""

    tokens: int = 0
    """All tokens, padding included."""
    padding: int = 0
    """Padding tokens among them."""


class Predictor:
    """One version of one model, in memory. Several threads may call `predict` at once; `work` may miss some tokens then.

    No forward pass has more than ``max_batch_tokens`` tokens, padding included, unless it has a single, longer window.
    """

    def __init__(self, *, task: AnyTask, tokenizer: Tokenizer, pad_id: int, engine: Engine, max_batch_tokens: int) -> None:
        self.task = task
        self.engine = engine
        self.work = Work()
        self._tokenizer = task.prepare_tokenizer(tokenizer)
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def load(cls, directory: Path, manifest: Manifest, serving: ServingSettings, *, threads: int | None = None) -> Predictor:
        """Load the version in ``directory`` with the settings of ``serving``, for evaluation and serving alike.

        ``threads`` (default: ``serving.threads``) changes the speed of an evaluation, not its answers.

        Raises:
            CorruptVersion: if the files in ``directory`` do not give a working model.
        """
        task_cls = task_type(manifest.task)
        tokenizer, pad_id = load_tokenizer(directory)
        settings = EngineSettings(
            engine=serving.engine,
            device=serving.device,
            precision=serving.precision,
            threads=threads or serving.threads,
        )
        return cls(
            task=task_cls(
                manifest.labels,
                manifest.max_length,
                stride=manifest.stride,
                long_text=manifest.long_text,
                calibration=manifest.calibration,
            ),
            tokenizer=tokenizer,
            pad_id=pad_id,
            engine=load_engine(directory, task_cls.auto_model, task_cls.heads, settings),
            max_batch_tokens=serving.max_batch_tokens,
        )

    def predict(self, inputs: Sequence[Any], options: Sequence[Any] | None = None) -> list[Any]:
        """Return the outputs of the task's inputs, in order; ``options[i]`` belongs to input i (None: the defaults for all)."""
        *_, outputs = self.steps(inputs, options)
        assert outputs is not None
        return outputs

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None
    ) -> Iterator[list[Any] | None]:
        """Run `predict` step by step: yield None after each forward pass, and the outputs at last.

        Between two steps the caller may use the model for other inputs. ``budget`` limits the tokens of one pass to less than
        ``max_batch_tokens``.

        Raises:
            NotFinite: if the model gives NaN or infinity.
        """
        if not inputs:
            yield []
            return
        options = options or [self.task.Options()] * len(inputs)
        windows = self.task.encode(self._tokenizer, inputs, options)
        heads: dict[str, list[Any]] = {}
        widths = np.array([self._width(len(ids)) for ids in windows.ids])
        for chosen in pack(widths, budget or self._max_batch_tokens, self.engine.overhead_tokens):
            batch = self._pad(windows, chosen)
            self.work.tokens += batch["attention_mask"].size
            self.work.padding += batch["attention_mask"].size - sum(len(windows.ids[window]) for window in chosen)
            logits = self.engine.forward(batch)
            for name, array in logits.items():
                if not np.isfinite(array).all():
                    raise NotFinite(f"the model's {name} are not numbers for some inputs; did its training diverge?")
                rows = heads.setdefault(name, [None] * len(windows))
                for row, window in zip(array, chosen, strict=True):
                    rows[window] = row
            yield None
        yield self.task.decode(windows, heads, options)

    def warm(self) -> None:
        """Predict the task's samples, alone and together, so that the first request does not pay for one-time set-up."""
        samples = self.task.samples()
        for sample in samples:
            self.predict([sample])
        self.predict(samples * 4)

    def probe(self) -> tuple[Probe, ...]:
        """Return the answers to the task's samples, which `check` compares wherever the version is loaded."""
        samples = self.task.samples()
        outputs = self.predict(samples)
        return tuple(
            Probe(input=sample.model_dump(mode="json"), output=output.model_dump(mode="json"))
            for sample, output in zip(samples, outputs, strict=True)
        )

    def check(self, probes: Sequence[Probe]) -> None:
        """Raise ``CorruptVersion`` unless each probe gets the same answer as when the version was evaluated."""
        for probe in probes:
            [output] = self.predict([self.task.Input(**probe.input)])
            difference = self.task.difference(self.task.Output(**probe.output), output)
            if not difference <= PROBE_TOLERANCE:
                raise CorruptVersion(
                    f"self-check failed: scores for {probe.input} differ by {difference:.3f} from those at evaluation "
                    f"(allowed: {PROBE_TOLERANCE}); engine {self.engine.description}"
                )

    def _width(self, length: int) -> int:
        """Return ``length`` rounded up, but at most ``max_length``: the model may not have positions beyond."""
        return max(length, min(-(-length // LENGTH_STEP) * LENGTH_STEP, self.task.max_length))

    def _pad(self, windows: Windows, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        width = self._width(max(len(windows.ids[window]) for window in chosen))
        ids = np.full((len(chosen), width), self._pad_id, dtype=np.int64)
        types = np.zeros((len(chosen), width), dtype=np.int64)
        mask = np.zeros((len(chosen), width), dtype=np.int64)
        for row, window in enumerate(chosen):
            length = len(windows.ids[window])
            ids[row, :length] = windows.ids[window]
            types[row, :length] = windows.type_ids[window]
            mask[row, :length] = 1
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}


def load_tokenizer(directory: Path) -> tuple[Tokenizer, int]:
    """Load the fast tokenizer of a Hugging Face directory. Return it with the model's padding id. Raises ``CorruptVersion``."""
    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise CorruptVersion(f"{directory} has no readable tokenizer.json and config.json: {error}") from error
    return tokenizer, int(config.get("pad_token_id") or 0)
