"""A loaded version: typed inputs in, typed outputs out. Evaluation and serving use this one class.

Reaches a model only through an `Engine`, and a task only through its contract.
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
from baton.tasks import task_type
from baton.tasks.base import Task, Windows

PROBE_TOLERANCE = 0.02
"""Largest difference of a probe's scores between evaluation and a loaded copy: bf16 on another CPU rounds differently."""

LENGTH_STEP = 8
"""Batches are padded to a multiple of this, which matrix kernels like and which bounds the number of shapes."""


@dataclass
class Work:
    """Tokens that have gone through the model, and how many of them were padding. Counted by one thread, read by any."""

    tokens: int = 0
    padding: int = 0


class Predictor:
    """One version of one model, in memory. `predict` is called from one thread at a time.

    No forward pass has more than ``max_batch_tokens`` tokens, padding included, unless a single window does.
    """

    def __init__(
        self, *, task: Task[Any, Any, Any, Any], tokenizer: Tokenizer, pad_id: int, engine: Engine, max_batch_tokens: int
    ) -> None:
        self.task = task
        self.engine = engine
        self.work = Work()
        self._tokenizer = task.prepare_tokenizer(tokenizer)
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens

    @classmethod
    def load(cls, directory: Path, manifest: Manifest, serving: ServingSettings, *, threads: int | None = None) -> Predictor:
        """The version in ``directory`` as ``serving`` says that it runs, in evaluation and in service alike.

        ``threads`` (default: ``serving.threads``) changes the speed of an evaluation, not its answers.

        Raises:
            CorruptVersion: its files do not make a working model.
        """
        task_cls = task_type(manifest.task)
        tokenizer, pad_id = load_tokenizer(directory)
        settings = EngineSettings(
            kind=serving.engine,
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
        """Outputs of the task's inputs, in order; ``options[i]`` belongs to input i (defaults when None)."""
        *_, outputs = self.steps(inputs, options)
        assert outputs is not None
        return outputs

    def steps(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, budget: int | None = None
    ) -> Iterator[list[Any] | None]:
        """`predict`, one forward pass at a time: yields None after each, so that others may have the model; the outputs last.

        ``budget`` lowers the most tokens of one pass below ``max_batch_tokens``.
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
        """Run the task's samples, alone and together, so that the first real request meets warm code paths."""
        samples = self.task.samples()
        for sample in samples:
            self.predict([sample])
        self.predict(samples * 4)

    def probe(self) -> tuple[Probe, ...]:
        """Answers to the task's samples, to be checked again wherever the version is loaded."""
        samples = self.task.samples()
        outputs = self.predict(samples)
        return tuple(
            Probe(input=sample.model_dump(mode="json"), output=output.model_dump(mode="json"))
            for sample, output in zip(samples, outputs, strict=True)
        )

    def check(self, probes: Sequence[Probe]) -> None:
        """Raise ``CorruptVersion`` unless every probe is answered as it was when the version was evaluated."""
        for probe in probes:
            [output] = self.predict([self.task.Input(**probe.input)])
            difference = self.task.difference(self.task.Output(**probe.output), output)
            if not difference <= PROBE_TOLERANCE:
                raise CorruptVersion(
                    f"self-check failed: scores for {probe.input} differ by {difference:.3f} from those at evaluation "
                    f"(allowed: {PROBE_TOLERANCE}); engine {self.engine.description}"
                )

    def _width(self, length: int) -> int:
        """``length`` rounded up, but not beyond the longest input: the model may have no positions there."""
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
    """The fast tokenizer of a Hugging Face directory, and its model's padding id."""
    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise CorruptVersion(f"{directory} has no readable tokenizer.json and config.json: {error}") from error
    return tokenizer, int(config.get("pad_token_id") or 0)
