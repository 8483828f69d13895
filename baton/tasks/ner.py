"""Named entity recognition: which parts of a text name something, and of which type. The main metric is F1 of whole entities.

Read `Ner` first. `ner_rows` has the data rows, `ner_tokens` the tokens over all windows, `ner_entities` the step from scores of
tokens to entities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from baton.errors import DataError, InvalidInput, UnusableModel
from baton.tasks.base import CHARACTERS_PER_TOKEN, EXPLANATION_SCHEMA, IGNORED, Explanation, Mark, Score, Target, Task
from baton.tasks.checks import check_text
from baton.tasks.f1 import RatioF1, micro_f1
from baton.tasks.ner_entities import (
    Entities,
    Entity,
    Labels,
    NerOptions,
    Tokens,
    find_entities,
    inside_words,
    softmax,
    word_offsets,
)
from baton.tasks.ner_rows import NerExample, NerInput, Span
from baton.tasks.ner_tokens import NerWindows, TextTokens, WordPieces, first_tokens_of_words, label_words
from baton.tasks.windows import Windows, split_into_windows, without_truncation
from baton.text import tags
from baton.text.words import word_spans
from baton.validation import short_repr
from baton.wording import counted


class Ner(Task[NerInput, Entities, NerExample, NerOptions]):
    """Finds entities in a text. Its labels are O, and B-X and I-X for each type X.

    A long text is read in overlapping windows. Each token is labelled by the window in which it is farthest from a cut
    («maximum context» in the code of Devlin et al. 2019, «BERT»). The ends of the text are not cuts.
    """

    name: ClassVar[str] = "ner"
    auto_model: ClassVar[str] = "AutoModelForTokenClassification"
    target: ClassVar[Target] = "tokens"
    row_shapes: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "entities"), ("tokens", "tags"))
    Input = NerInput
    Output = Entities
    Example = NerExample
    Options = NerOptions

    @cached_property
    def _labels(self) -> Labels:
        return Labels(self.labels)

    # --- data --------------------------------------------------------------------------------------------------------

    @classmethod
    def labels_of(cls, examples: Iterable[NerExample]) -> tuple[str, ...]:
        types = sorted({span.label for example in examples for span in example.entities})
        if not types:
            raise DataError("ner needs at least one entity in the training data; it has none")
        return (tags.OUTSIDE, *(f"{prefix}-{label}" for label in types for prefix in "BI"))

    @classmethod
    def check_labels(cls, labels: Sequence[str]) -> None:
        named = set(labels)
        wrong = [label for label in labels if label != tags.OUTSIDE and not (label[:2] in ("B-", "I-") and label[2:])]
        wrong += [label for label in labels if label.startswith("I-") and f"B-{label[2:]}" not in named]
        if tags.OUTSIDE not in named or wrong:
            what = f"{wrong[0]!r} does not fit" if wrong else f"there is no {tags.OUTSIDE!r}"
            raise UnusableModel(
                f"ner needs the labels {tags.OUTSIDE}, and for each type X B-X, and I-X for its further words; {what}. The "
                f"model has {', '.join(labels[:12])}"
            )

    @classmethod
    def strata(cls, examples: Sequence[NerExample]) -> list[str]:
        return [example.entities[0].label if example.entities else "" for example in examples]

    @classmethod
    def content(cls, example: NerExample) -> str:
        return example.text

    @classmethod
    def labels_in(cls, example: NerExample) -> tuple[str, ...]:
        return tuple(sorted({span.label for span in example.entities}))

    @property
    def answer_labels(self) -> tuple[str, ...]:
        return tuple(label for label in self._labels.types if label != tags.OUTSIDE)

    @classmethod
    def limits(cls, examples: Sequence[NerExample]) -> str | None:
        """Count the entities that begin or end inside a word: answers are whole words (ADR 6)."""
        entities, inside, first = 0, 0, ""
        for example in examples:
            entities += len(example.entities)
            for span in inside_words(example.text, example.entities):
                inside += 1
                first = first or f"{short_repr(example.text[span.start : span.end])} in {short_repr(example.text)}"
        if not inside:
            return None
        best = 2 * (entities - inside) / (2 * entities - inside)
        return (
            f"{inside:,} of {entities:,} entities begin or end inside a word, where no answer can (first: "
            f"{first}); the best possible F1 is {best:.3f}"
        )

    def check(self, examples: Sequence[NerExample]) -> None:
        known = self.answer_labels
        unknown = sorted({span.label for example in examples for span in example.entities} - set(known))
        if unknown:
            raise DataError(
                f"the holdout has {counted(len(unknown), 'entity type')} that the training data lacks: "
                f"{', '.join(map(repr, unknown[:5]))}; training has {', '.join(map(repr, known[:10]))}"
                f"{' …' if len(known) > 10 else ''}"
            )

    # --- windows -----------------------------------------------------------------------------------------------------

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        return without_truncation(tokenizer)

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[NerInput], options: Sequence[NerOptions]) -> NerWindows:
        room = self.max_length - tokenizer.num_special_tokens_to_add(False)
        texts = tokenizer.encode_batch([item.text for item in inputs], add_special_tokens=False)
        overlaps = [self._overlap(room, choice) for choice in options]
        windows = [split_into_windows(text, room, overlap) for text, overlap in zip(texts, overlaps, strict=True)]
        flat = [tokenizer.post_process(window) for windows_of_text in windows for window in windows_of_text]
        return NerWindows(
            inputs=inputs,
            ids=[window.ids for window in flat],
            type_ids=[window.type_ids for window in flat],
            owner=[owner for owner, windows_of_text in enumerate(windows) for _ in windows_of_text],
            encodings=flat,
            overlaps=overlaps,
            word_pieces=WordPieces.of(tokenizer),
        )

    def _overlap(self, room: int, options: NerOptions) -> int:
        """Return how many tokens neighbouring windows of ``room`` tokens share: the stride, but at most half of the room.

        More than half would put tokens into three windows. With a room of 4, a stride of 3 gives an overlap of 2.
        """
        return min(self.stride if options.stride is None else options.stride, room // 2)

    # --- inference ---------------------------------------------------------------------------------------------------

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[NerOptions]
    ) -> list[Entities]:
        assert isinstance(windows, NerWindows), "decode reads what Ner.encode returned"
        texts = zip(windows.inputs, _tokens_by_input(windows), windows.ranges_by_input(), options, strict=True)
        return [
            self._entities(item.text, tokens, logits["logits"][indices.start : indices.stop], windows.word_pieces, choice)
            for item, tokens, indices, choice in texts
        ]

    def _entities(
        self,
        text: str,
        tokens: TextTokens,
        logits: Sequence[NDArray[np.float32]],
        word_pieces: WordPieces,
        options: NerOptions,
    ) -> Entities:
        scored = Tokens(
            text=text,
            offsets=tokens.offsets,
            scores=softmax(tokens.pick(logits), self.temperature if options.calibrated else 1.0),
            word_firsts=first_tokens_of_words(text, tokens.offsets),
            continue_words=partial(tokens.continue_words, text, word_pieces),
            first_index=tokens.owned[0].start,
        )
        return find_entities(scored, self._labels, options)

    def wants_explanation(self, options: NerOptions) -> bool:
        return options.explain

    def explaining(self) -> NerOptions:
        return NerOptions(explain=True)

    def explanations_of(self, output: Entities) -> Sequence[tuple[Mark | None, Explanation]]:
        """Return the explanations of the entities, the least certain one first."""
        entities = sorted(output.entities, key=lambda entity: entity.score)
        return [(Mark(it.start, it.end, it.label), it.explanation) for it in entities if it.explanation is not None]

    def words(self, item: NerInput) -> list[tuple[int, int]]:
        return word_spans(item.text)

    def values(self, windows: Windows, output: Entities, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
        assert isinstance(windows, NerWindows), "it reads what Ner.encode returned"
        text = windows.inputs[0].text
        [tokens] = _tokens_by_input(windows)
        firsts = first_tokens_of_words(text, tokens.offsets)
        words = word_offsets(tokens.offsets, firsts)
        begins = [np.flatnonzero((words[:, 0] < it.end) & (words[:, 1] > it.start)) for it in output.entities]
        names = {name: index for index, name in enumerate(self.labels)}
        chosen = [
            np.array([names[_label_of_word(it.label, number)] for number in range(len(places))])
            for it, places in zip(output.entities, begins, strict=True)
        ]
        rows = []
        for one in logits:
            scores = softmax(tokens.pick([one]), self.temperature)[firsts]
            rows.append([float(scores[places, labels].mean()) for places, labels in zip(begins, chosen, strict=True)])
        return np.array(rows).reshape(len(logits), len(output.entities))

    def explained(self, output: Entities, explanations: Sequence[Explanation]) -> Entities:
        entities = zip(output.entities, explanations, strict=True)
        return output.model_copy(update={"entities": tuple(replace(it, explanation=why) for it, why in entities)})

    def difference(self, expected: Entities, actual: Entities) -> float:
        """Return the largest change of a word's score that the two answers prove, even if neither has entities.

        If the best label of a word is the same in both, its score changed by the difference of its scores. If label A with
        score a gave way to B with score b, A now has at most b and at most 1 − b, so it lost at least a − min(b, 1 − b). B,
        which had at most a and at most 1 − a, gained at least b − min(a, 1 − a). So a close call that goes the other way on
        another processor is a small change, and entities that appear or vanish because of it add nothing.
        """
        if len(expected.word_labels) != len(actual.word_labels):
            return np.inf
        before, after = np.array(expected.word_scores), np.array(actual.word_scores)
        same = np.array(expected.word_labels) == np.array(actual.word_labels)
        lost, gained = before - np.minimum(after, 1 - after), after - np.minimum(before, 1 - before)
        changes = np.where(same, np.abs(before - after), np.maximum(lost, gained))
        return float(changes.max(initial=0.0))

    def agree(self, first: Entities, second: Entities) -> bool:
        found, others = ({(it.start, it.end, it.label) for it in answer.entities} for answer in (first, second))
        return found == others

    def estimate_tokens(self, item: NerInput) -> int:
        return 2 + len(item.text) // CHARACTERS_PER_TOKEN

    def samples(self) -> list[NerInput]:
        sentence = "Clara Weiss took the train from Berlin to Oslo."
        return [NerInput(text=sentence), NerInput(text=" ".join([sentence] * 8))]

    # --- the prediction log ------------------------------------------------------------------------------------------

    def summary(self, output: Entities, options: NerOptions) -> tuple[str | None, float | None]:
        """Return the type and score of the entity with the highest score; `tags.OUTSIDE` and None if there are no entities."""
        if not self.scorable(options):
            return None, None
        best = max(output.entities, key=lambda entity: entity.score, default=None)
        return (tags.OUTSIDE, None) if best is None else (best.label, best.score)

    def confidences(self, output: Entities, options: NerOptions) -> Sequence[float]:
        """Return the scores of the entities; () if the request asked for another strategy, whose scores are not calibrated."""
        return tuple(entity.score for entity in output.entities) if options.calibrated else ()

    def correct(self, output: Entities, example: NerExample) -> Sequence[bool]:
        truth = {(span.label, span.start, span.end) for span in example.entities}
        return tuple((entity.label, entity.start, entity.end) in truth for entity in output.entities)

    def brief(self, output: Entities, item: NerInput) -> Entities:
        entities = tuple(
            replace(entity, word=item.text[entity.start : entity.end], explanation=None) for entity in output.entities
        )
        return Entities(entities=entities, word_labels=(), word_scores=())

    def in_words(self, output: Entities) -> str:
        return _listed((entity.word, entity.label) for entity in output.entities)

    def truth_in_words(self, example: NerExample, item: NerInput) -> str:
        return _listed((item.text[span.start : span.end], span.label) for span in example.entities)

    def marks_of(self, output: Entities, item: NerInput) -> tuple[Mark, ...]:
        return tuple(Mark(entity.start, entity.end, entity.label) for entity in output.entities)

    def truth_marks(self, example: NerExample) -> tuple[Mark, ...]:
        return tuple(Mark(span.start, span.end, span.label) for span in example.entities)

    def scorable(self, options: NerOptions) -> bool:
        """Return False if the request asked for tokens instead of entities, or left out some types."""
        return options.aggregation_strategy != "none" and set(options.ignore_labels) == {tags.OUTSIDE}

    # --- wire --------------------------------------------------------------------------------------------------------

    @classmethod
    def from_wire(cls, value: object) -> NerInput:
        if not isinstance(value, str):
            raise InvalidInput(f"inputs: a text must be a string, not {type(value).__name__} ({short_repr(value)})")
        try:
            return NerInput.model_construct(text=check_text(value, "text"))
        except ValueError as error:
            raise InvalidInput(f"inputs: {error}") from None

    @classmethod
    def input_schema(cls) -> dict[str, Any]:
        return {"type": "string"}

    @classmethod
    def answer_schema(cls) -> dict[str, Any]:
        place = {"word": {"type": "string"}, "start": {"type": "integer"}, "end": {"type": "integer"}}
        found = {"score": {"type": "number"}, **place}
        group = {"entity_group": {"type": "string"}, **found}
        token = {"entity": {"type": "string"}, "index": {"type": "integer"}, **found}
        forms = [
            {"type": "object", "properties": {**group, "explanation": EXPLANATION_SCHEMA}, "required": list(group)},
            {"type": "object", "properties": token, "required": list(token)},
        ]
        return {"type": "array", "items": {"anyOf": forms}}

    @classmethod
    def to_wire(cls, output: Entities) -> list[dict[str, Any]]:
        return [
            {
                "entity_group": entity.label,
                "score": entity.score,
                "word": entity.word,
                "start": entity.start,
                "end": entity.end,
                **({} if entity.explanation is None else {"explanation": asdict(entity.explanation)}),
            }
            if entity.index is None
            else {
                "entity": entity.label,
                "score": entity.score,
                "index": entity.index,
                "word": entity.word,
                "start": entity.start,
                "end": entity.end,
            }
            for entity in output.entities
        ]

    # --- training and evaluation -------------------------------------------------------------------------------------

    def input_of(self, example: NerExample) -> NerInput:
        return NerInput.model_construct(text=example.text)

    def targets(self, examples: Sequence[NerExample], windows: Windows) -> list[list[int]]:
        """Return for each window the labels of its tokens: the word's label at the first token of each word, else `IGNORED`.

        A word's label is B-X if it is the first word of an entity of type X, I-X if it is a later one, else O. The other
        tokens of a word are not trained on: names that happen to be split into many tokens would outweigh the rest and be
        memorised (benchmarks/RESULTS.md).
        """
        assert isinstance(windows, NerWindows), "targets reads what Ner.encode returned"
        targets = []
        for example, tokens in zip(examples, _tokens_by_input(windows), strict=True):
            firsts = first_tokens_of_words(example.text, tokens.offsets)
            labels = np.full(len(tokens.offsets), IGNORED)
            labels[firsts] = label_words(word_offsets(tokens.offsets, firsts), example.entities, self.labels)
            targets += tokens.spread(labels)
        return targets

    def score(self, outputs: Sequence[Entities], examples: Sequence[NerExample]) -> Score:
        """Compare whole entities, which are right if type, start and end are: seqeval's strict scores.

        ``f1``, ``precision`` and ``recall`` are over all entities together (``f1`` is micro-F1), ``per_class`` has those of
        each type, and ``macro_f1`` is the mean F1 of the types that occur as truth or prediction. ``accuracy`` is the share of
        characters, white space left out, whose type (or none) is right. 0/0 counts as 0, as with seqeval's ``zero_division=0``.
        """
        found = [{(entity.label, entity.start, entity.end) for entity in output.entities} for output in outputs]
        truth = [{(span.label, span.start, span.end) for span in example.entities} for example in examples]
        right = [one & other for one, other in zip(found, truth, strict=True)]
        statistics = np.array([list(map(len, sets)) for sets in zip(right, found, truth, strict=True)], dtype=np.int32)
        statistics = statistics.reshape(-1, 3)
        counts = [Counter(label for entities in sets for label, _, _ in entities) for sets in (right, found, truth)]
        types = sorted({*self._labels.types, *counts[1], *counts[2]} - {tags.OUTSIDE})
        per_class = {label: _ratios(*(count[label] for count in counts)) for label in types}
        occurring = [per_class[label]["f1"] for label in types if counts[1][label] or counts[2][label]]
        metrics: dict[str, Any] = {
            **_ratios(*statistics.sum(axis=0).tolist()),
            "macro_f1": float(np.mean(occurring)) if occurring else 0.0,
            "accuracy": _character_accuracy(outputs, examples),
            "per_class": per_class,
            "labels": types,
            "examples": len(examples),
        }
        return Score(metrics=metrics, statistics=statistics)

    def measure(self, metrics: Mapping[str, Any], statistics: NDArray[np.int32]) -> RatioF1:
        """Return micro-F1. ``statistics`` [n, 3] has the numbers of right, found and true entities of each example."""
        return micro_f1(statistics)


def _tokens_by_input(windows: NerWindows) -> Iterator[TextTokens]:
    for rows, overlap in zip(windows.ranges_by_input(), windows.overlaps, strict=True):
        yield TextTokens.of(windows.encodings[rows.start : rows.stop], overlap)


def _label_of_word(kind: str, number: int) -> str:
    """Return the label that a word of an entity has, the first one (0) or a later one."""
    return tags.OUTSIDE if kind == tags.OUTSIDE else f"{'I' if number else 'B'}-{kind}"


def _listed(entities: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{text} [{label}]" for text, label in entities) or "no entity"


def _ratios(right: int, found: int, truth: int) -> dict[str, Any]:
    return {
        "f1": 2 * right / (found + truth) if found + truth else 0.0,
        "precision": right / found if found else 0.0,
        "recall": right / truth if truth else 0.0,
        "support": truth,
    }


def _types(length: int, spans: Iterable[Entity | Span]) -> list[str]:
    """Return the type of each character of a text with ``length`` characters."""
    types = [tags.OUTSIDE] * length
    for span in spans:
        types[span.start : span.end] = [span.label] * (span.end - span.start)
    return types


def _character_accuracy(outputs: Sequence[Entities], examples: Sequence[NerExample]) -> float:
    right = total = 0
    for output, example in zip(outputs, examples, strict=True):
        found, truth = (_types(len(example.text), spans) for spans in (output.entities, example.entities))
        same = [
            one == other for character, one, other in zip(example.text, found, truth, strict=True) if not character.isspace()
        ]
        right += sum(same)
        total += len(same)
    return right / total if total else 0.0
