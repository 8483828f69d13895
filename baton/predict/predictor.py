"""A loaded version: typed inputs in, typed outputs out. Evaluation and serving use the same class.

It uses a model only through an `Engine`, and a task only through the `Task` contract.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from baton.artifacts.manifest import EngineChoice, Manifest, Probe
from baton.config.serving_settings import ServingSettings
from baton.engines import Batch, Engine, EngineSettings, Logits, WritingEngine, load_engine
from baton.errors import CorruptVersion, InvalidInput, NotFinite
from baton.generation import Generation
from baton.predict.costs import measure_overhead
from baton.predict.explaining import Coalitions, group_words
from baton.predict.packing import pack
from baton.tasks import AnyTask, task_type
from baton.tasks.base import Attribution, Explanation
from baton.tasks.windows import Windows

PROBE_TOLERANCE = 0.02
"""Maximum difference of a probe's scores between evaluation and a loaded copy: bf16 on another CPU rounds differently."""


READS_PADDING = ("convbert", "fnet", "nystromformer", "xlnet")
"""Model types that look at padding in spite of the mask: the convolutions of ConvBERT and Nyströmformer reach beyond the last
token, FNet mixes all positions and takes no mask, and XLNet takes the last position for the whole text. Their windows share a
forward pass only with others of the same length."""


def never() -> bool:
    """Say that somebody waits for the answers, whoever that is."""
    return False


Heads = Mapping[str, Sequence[Any]]
"""``heads[name][w]``: that output of the model for window w."""


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

    def __init__(
        self,
        *,
        task: AnyTask,
        tokenizer: Tokenizer,
        pad_id: int,
        engine: Engine,
        max_batch_tokens: int,
        padded: bool = True,
        as_judged: bool = True,
    ) -> None:
        """
        Args:
            padded: whether windows of different lengths may share a forward pass; see `reads_padding`.
            as_judged: whether the engine is the one that the version was judged with.
        """
        self.task = task
        self.engine = engine
        self.work = Work()
        self.overhead_tokens: int = engine.overhead_tokens
        self._tokenizer = task.prepare_tokenizer(tokenizer)
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens
        self._length_step = engine.length_step if padded else 1
        self._padded = padded
        self.as_judged = as_judged

    @classmethod
    def load(cls, directory: Path, manifest: Manifest, serving: ServingSettings, *, threads: int | None = None) -> Predictor:
        """Load the version in ``directory`` with the settings of ``serving``, for evaluation and serving alike.

        Where ``serving`` leaves the engine open, it is the one that the manifest names.
        ``threads`` (default: ``serving.threads``) changes the speed of an evaluation, not its answers.

        Raises:
            CorruptVersion: if the files in ``directory`` do not give a working model.
        """
        task = make_task(manifest)
        tokenizer, pad_id = load_tokenizer(directory)
        settings = engine_settings(serving, manifest.engine, threads or serving.threads)
        return cls(
            task=task,
            tokenizer=tokenizer,
            pad_id=pad_id,
            engine=load_engine(directory, task.auto_model, task.heads, settings),
            max_batch_tokens=serving.max_batch_tokens,
            padded=not reads_padding(directory),
            as_judged=_same_engine(settings, manifest.engine),
        )

    def predict(
        self, inputs: Sequence[Any], options: Sequence[Any] | None = None, abandoned: Callable[[], bool] = never
    ) -> list[Any]:
        """Return the outputs of the task's inputs, in order; ``options[i]`` belongs to input i (None: the defaults for all).

        Once ``abandoned()`` is true nobody waits for them: texts that are being written end where they are.
        """
        *_, outputs = self.steps(inputs, options, abandoned=abandoned)
        assert outputs is not None
        return outputs

    def steps(
        self,
        inputs: Sequence[Any],
        options: Sequence[Any] | None = None,
        budget: int | None = None,
        abandoned: Callable[[], bool] = never,
    ) -> Iterator[list[Any] | None]:
        """Run `predict` step by step: tokenize, then one forward pass a step. Yield None after each step, and the outputs last.

        Between two steps the caller may use the model for other inputs; the first step does not use it. ``budget`` limits the
        tokens of one pass to less than ``max_batch_tokens``. ``abandoned``: see `predict`.

        Raises:
            NotFinite: if the model gives NaN or infinity.
        """
        if not inputs:
            yield []
            return
        options = options or [self.task.Options()] * len(inputs)
        windows, heads = yield from self._forward(inputs, options, budget, abandoned)
        outputs = self.task.decode(windows, heads, options)
        for index, choice in enumerate(options):
            if self.task.wants_explanation(choice):
                outputs[index] = yield from self._explain(inputs[index], choice, outputs[index], budget)
        yield outputs

    def logits(self, inputs: Sequence[Any]) -> tuple[Windows, Heads]:
        """Return what `Task.decode` makes the answers to ``inputs`` from, for those who decode more than once."""
        passes = self._forward(inputs, [self.task.Options()] * len(inputs), None, never)
        while True:
            try:
                next(passes)
            except StopIteration as end:
                found: tuple[Windows, Heads] = end.value
                return found

    def _explain(self, item: Any, options: Any, output: Any, budget: int | None) -> Generator[None, None, Any]:
        """Return ``output`` with the attributions of the words of ``item``, one forward pass a step.

        Raises:
            InvalidInput: the text needs more than one window, or its answers cannot be explained.
        """
        if not self.task.confidences(output, options):
            return output
        words = self.task.words(item)
        windows = self.task.encode(self._tokenizer, [item], [options])
        if len(windows) > 1:
            raise InvalidInput(
                f"parameters.explain: the text has more than the {self.task.max_length} tokens that are read at once; only "
                "shorter texts are explained"
            )
        [encoding] = windows.encodings
        ends = np.array([end for _, end in encoding.offsets])
        special = np.array(encoding.special_tokens_mask, dtype=bool)
        read = ends.max(initial=0)  # of a truncated text, the rest is not
        parts = group_words([word for word in words if word[0] < read])
        # a token may begin with the white space before its word, and that before the first word belongs to it, too
        owner = np.maximum(np.searchsorted([start for start, _ in parts], ends - 1, side="right") - 1, 0)
        coalitions = Coalitions(len(parts))
        masks = np.array([special | np.isin(owner, sorted(seen)) for seen in coalitions], dtype=np.int64)
        logits: list[Any] = []
        width = self._width(len(windows.ids[0]))
        rows = max(1, min((budget or self._max_batch_tokens) // width, self.engine.max_rows or len(masks)))
        for first in range(0, len(masks), rows):
            chosen = masks[first : first + rows]
            batch = self._pad(windows, np.zeros(len(chosen), dtype=np.int64))
            batch["attention_mask"][:, : chosen.shape[1]] = chosen
            self.work.tokens += batch["attention_mask"].size
            logits += list(self.engine.forward(batch)[self.task.heads[0]])
            yield None
        baseline, added = coalitions.attributions(self.task.values(windows, output, logits))
        explanations = [
            Explanation(
                baseline=float(baseline[answer]),
                parts=tuple(
                    Attribution(start=start, end=end, score=float(added[part, answer]))
                    for part, (start, end) in enumerate(parts)
                ),
            )
            for answer in range(added.shape[1])
        ]
        return self.task.explained(output, explanations)

    def _forward(
        self, inputs: Sequence[Any], options: Sequence[Any], budget: int | None, abandoned: Callable[[], bool]
    ) -> Generator[None, None, tuple[Windows, Heads]]:
        """Tokenize, then run one forward pass a step. Return the windows with their logits."""
        windows = self.task.encode(self._tokenizer, inputs, options)
        yield None
        heads: dict[str, list[Any]] = {}
        for chosen, generation in self._passes(windows, budget or self._max_batch_tokens):
            batch = self._pad(windows, chosen)
            self.work.tokens += batch["attention_mask"].size
            self.work.padding += batch["attention_mask"].size - sum(len(windows.ids[window]) for window in chosen)
            logits = self._run(batch, generation, abandoned)
            for name, array in logits.items():
                if not np.isfinite(array).all():
                    raise NotFinite(f"the model's {name} are not numbers for some inputs; did its training diverge?")
                rows = heads.setdefault(name, [None] * len(windows))
                for row, window in zip(array, chosen, strict=True):
                    rows[window] = row
            yield None
        return windows, heads

    def _passes(self, windows: Windows, budget: int) -> Iterator[tuple[NDArray[np.int64], Generation | None]]:
        """Yield the windows of each forward pass, and how their answers are written: those of one pass all alike."""
        widths = np.array([self._width(len(ids)) for ids in windows.ids])
        everything = np.arange(len(widths))
        for generation in dict.fromkeys(windows.generations) or (None,):
            members = everything
            tokens = widths
            if generation is not None:
                members = np.flatnonzero([other == generation for other in windows.generations])
                tokens = np.array([generation.tokens(int(width)) for width in widths[members]])
            for chosen in pack(tokens, budget, self.overhead_tokens, padded=self._padded, max_rows=self.engine.max_rows):
                yield members[chosen], generation

    def _run(self, batch: Batch, generation: Generation | None, abandoned: Callable[[], bool]) -> Logits:
        if generation is None:
            return self.engine.forward(batch)
        assert isinstance(self.engine, WritingEngine), "no other engine is made for models that write"
        return self.engine.write(batch, generation, abandoned)

    def warm(self) -> None:
        """Predict the task's samples, alone and together, so that the first request does not pay for one-time set-up.

        Then measure what starting a forward pass costs here, on this machine and with these threads. Answers do not depend on
        it, but how windows are grouped does. Of models that write, the engine's estimate is used: what a pass costs depends
        on what it writes.
        """
        samples = self.task.samples()
        for sample in samples:
            self.predict([sample])
        self.predict(samples * 4)
        if self.task.target == "text":
            return
        measured = measure_overhead(self._forward_ones, self.task.max_length, self._max_batch_tokens)
        self.overhead_tokens = measured or self.engine.overhead_tokens

    def probe(self) -> tuple[Probe, ...]:
        """Return the answers to the task's samples, which `check` compares wherever the version is loaded."""
        answers = [(sample, self._plain_answer(sample)) for sample in self.task.samples()]
        return tuple(
            Probe(input=sample.model_dump(mode="json"), output=output.model_dump(mode="json")) for sample, output in answers
        )

    def check(self, probes: Sequence[Probe]) -> None:
        """Raise ``CorruptVersion`` unless each probe gets the same answer as when the version was evaluated.

        With another engine than then, because the settings name one, it is enough that there is an answer.
        """
        for probe in probes:
            output = self._plain_answer(self.task.Input(**probe.input))
            difference = self.task.difference(self.task.Output(**probe.output), output)
            if self.as_judged and not difference <= PROBE_TOLERANCE:
                raise CorruptVersion(
                    f"self-check failed: scores for {probe.input} differ by {difference:.3f} from those at evaluation "
                    f"(allowed: {PROBE_TOLERANCE}); engine {self.engine.description}"
                )

    def _plain_answer(self, item: Any) -> Any:
        """Return the answer to ``item`` alone, with the scores that it has without temperature.

        A low temperature would make much of the small differences between two processors.
        """
        task = self.task
        temperature, task.temperature = task.temperature, 1.0
        try:
            [output] = self.predict([item])
        finally:
            task.temperature = temperature
        return output

    def _forward_ones(self, rows: int, tokens: int) -> None:
        ones = np.ones((rows, tokens), dtype=np.int64)
        self.engine.forward({"input_ids": ones, "token_type_ids": np.zeros_like(ones), "attention_mask": ones})

    def _width(self, length: int) -> int:
        """Return ``length`` rounded up, but at most ``max_length``: the model may not have positions beyond."""
        step = self._length_step
        return max(length, min(-(-length // step) * step, self.task.max_length))

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


def make_task(manifest: Manifest) -> AnyTask:
    """Return the task of a version, with its labels, windows and calibration."""
    task = task_type(manifest.task)(
        manifest.labels,
        manifest.max_length,
        stride=manifest.stride,
        long_text=manifest.long_text,
        calibration=manifest.calibration,
    )
    task.temperature = manifest.temperature
    task.generation = manifest.generation or task.generation
    return task


def engine_settings(serving: ServingSettings, choice: EngineChoice, threads: int | None = None) -> EngineSettings:
    """Return the engine that serves a version: as ``serving`` says, and where it is ``auto``, as was chosen for the version."""
    library = serving.engine
    if library == "auto" and (serving.on_gpu or serving.precision == "bf16"):
        library = "torch"
    elif library == "auto":
        library = "onnx" if serving.precision == "int8" else choice.library
    chosen = choice.precision if library == choice.library else "auto"
    return EngineSettings(
        library=library,
        device=serving.device,
        precision=chosen if serving.precision == "auto" else serving.precision,
        threads=threads,
    )


def _same_engine(settings: EngineSettings, choice: EngineChoice) -> bool:
    same_numbers = settings.library == "torch" or settings.precision == choice.precision  # bf16 is near enough to fp32
    return settings.library == choice.library and same_numbers


def reads_padding(directory: Path) -> bool:
    """Return whether the model in ``directory`` answers otherwise when its input is padded on the right."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config.get("model_type") in READS_PADDING


def load_tokenizer(directory: Path) -> tuple[Tokenizer, int]:
    """Load the fast tokenizer of a Hugging Face directory. Return it with the model's padding id. Raises ``CorruptVersion``."""
    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise CorruptVersion(f"{directory} has no readable tokenizer.json and config.json: {error}") from error
    return tokenizer, int(config.get("pad_token_id") or 0)
