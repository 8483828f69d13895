"""Named entity recognition: which parts of a text name something, and of what type. Judged by the F1 of whole entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from baton.errors import DataError, InvalidInput
from baton.tasks.base import (
    CHARACTERS_PER_TOKEN,
    IGNORED,
    Score,
    Target,
    Task,
    Windows,
    check_text,
    short_repr,
    split_into_windows,
    without_truncation,
)
from baton.tasks.ner_entities import Entities, Entity, Labels, NerOptions, Tokens, find_entities, softmax, spanned
from baton.tasks.ner_rows import NerExample, NerInput, Span
from baton.text import tags
from baton.text.words import word_starts

UNKNOWN = ("[UNK]", "<unk>")
"""What tokenizers call a word that they do not know. Such a token is a word of its own."""


class Ner(Task[NerInput, Entities, NerExample, NerOptions]):
    """Labels are ``O``, and B-X and I-X of every type X.

    A long text is read in overlapping windows. Each token is labelled by the window in which it stands farthest from a cut
    («maximum context» in the code of Devlin et al. 2019, «BERT»); the ends of the text are no cuts.
    """

    name: ClassVar[str] = "ner"
    auto_model: ClassVar[str] = "AutoModelForTokenClassification"
    target: ClassVar[Target] = "tokens"
    row_shapes: ClassVar[tuple[tuple[str, ...], ...]] = (("text", "entities"), ("tokens", "tags"))
    Input = NerInput
    Output = Entities
    Example = NerExample
    Options = NerOptions

    _prefixed = True
    _unknown: frozenset[int | None] = frozenset()

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
    def strata(cls, examples: Sequence[NerExample]) -> list[str]:
        return [example.entities[0].label if example.entities else "" for example in examples]

    @classmethod
    def content(cls, example: NerExample) -> str:
        return example.text

    @classmethod
    def labels_in(cls, example: NerExample) -> tuple[str, ...]:
        return tuple(sorted({span.label for span in example.entities}))

    def check(self, examples: Sequence[NerExample]) -> None:
        known = [label for label in self._labels.types if label != tags.OUTSIDE]
        unknown = sorted({span.label for example in examples for span in example.entities} - set(known))
        if unknown:
            raise DataError(
                f"the holdout has {len(unknown)} entity type(s) that the training data lacks: "
                f"{', '.join(map(repr, unknown[:5]))}; training has {', '.join(map(repr, known[:10]))}"
                f"{' …' if len(known) > 10 else ''}"
            )

    # --- windows -----------------------------------------------------------------------------------------------------

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Also remember how this one shows that a token goes on with a word: `decode` never sees it."""
        self._prefixed = bool(getattr(tokenizer.model, "continuing_subword_prefix", None))
        self._unknown = frozenset(map(tokenizer.token_to_id, UNKNOWN))
        return without_truncation(tokenizer)

    def encode(self, tokenizer: Tokenizer, inputs: Sequence[NerInput], options: Sequence[NerOptions]) -> Windows:
        room = self.max_length - tokenizer.num_special_tokens_to_add(False)
        texts = tokenizer.encode_batch([item.text for item in inputs], add_special_tokens=False)
        windows = [
            split_into_windows(text, room, self._overlap(room, choice)) for text, choice in zip(texts, options, strict=True)
        ]
        flat = [tokenizer.post_process(window) for mine in windows for window in mine]
        return Windows(
            inputs=inputs,
            ids=[window.ids for window in flat],
            type_ids=[window.type_ids for window in flat],
            owner=[owner for owner, mine in enumerate(windows) for _ in mine],
            encodings=flat,
        )

    def _overlap(self, room: int, options: NerOptions) -> int:
        """How many tokens neighbouring windows of ``room`` tokens share: at most half, so that none stands in three windows."""
        return min(self.stride if options.stride is None else options.stride, room // 2)

    def _token_owner_slices(self, windows: Sequence[Encoding], options: NerOptions) -> list[slice]:
        """For each window of one text the positions that it labels; one after the other they are the text's tokens.

        Of the tokens that two windows share, the earlier one labels the first half: they stand farther from its cut.
        """
        bounds = [_bounds(window) for window in windows]
        shared = self._overlap(bounds[0][1] - bounds[0][0], options)  # the first of several windows is full
        begins = [bounds[0][0], *(first + (shared + 1) // 2 for first, _ in bounds[1:])]
        ends = [*(after - shared // 2 for _, after in bounds[:-1]), bounds[-1][1]]
        return [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]

    # --- inference ---------------------------------------------------------------------------------------------------

    def decode(
        self, windows: Windows, logits: Mapping[str, Sequence[NDArray[np.float32]]], options: Sequence[NerOptions]
    ) -> list[Entities]:
        outputs = []
        for item, mine, choice in zip(windows.inputs, windows.of_input(), options, strict=True):
            encodings = windows.encodings[mine.start : mine.stop]
            parts = self._token_owner_slices(encodings, choice)
            rows = [row[part] for row, part in zip(logits["logits"][mine.start : mine.stop], parts, strict=True)]
            offsets = _offsets(encodings, parts)
            tokens = Tokens(
                text=item.text,
                offsets=offsets,
                scores=softmax(np.concatenate(rows)),
                starts=_starts(item.text, offsets),
                later=partial(self._is_continuation, item.text, offsets, encodings, parts),
                index=parts[0].start,
            )
            outputs.append(find_entities(tokens, self._labels, choice))
        return outputs

    def _is_continuation(
        self, text: str, offsets: NDArray[np.int64], encodings: Sequence[Encoding], parts: Sequence[slice]
    ) -> NDArray[np.bool_]:
        """Whether each token goes on with the word of the one before it.

        As the Hugging Face pipeline has it: where later pieces carry a prefix (WordPiece), tokens that are not as long as
        their text do; with other tokenizers those without a space before them. Clients see words cut as they know it, at the
        price of its mistakes: a word that lost accents on its way to the vocabulary counts as a later piece, too.
        """
        pairs = list(zip(encodings, parts, strict=True))
        if self._prefixed:
            lengths = np.array([len(token) for encoding, part in pairs for token in encoding.tokens[part]], dtype=np.int64)
            later = lengths != offsets[:, 1] - offsets[:, 0]
        else:
            starts = offsets[:, 0].tolist()
            later = np.array([start > 0 and " " not in text[start - 1 : start + 1] for start in starts], dtype=bool)
        known = [identity not in self._unknown for encoding, part in pairs for identity in encoding.ids[part]]
        return np.asarray(later & np.array(known, dtype=bool))

    def difference(self, expected: Entities, actual: Entities) -> float:
        """Largest change of a word's score that the two answers prove, whether or not either of them has entities.

        A word whose best label is the same changed by the difference of its scores. Where label A with score a gave way to B
        with score b, A now has at most b and at most 1 − b: it lost a − min(b, 1 − b) or more. B, which had at most a and at
        most 1 − a, gained b − min(a, 1 − a) or more. So a close call that falls the other way on another processor is a small
        change, and the entities that come and go with it are no further one.
        """
        if len(expected.word_labels) != len(actual.word_labels):
            return np.inf
        before, after = np.array(expected.word_scores), np.array(actual.word_scores)
        same = np.array(expected.word_labels) == np.array(actual.word_labels)
        lost, gained = before - np.minimum(after, 1 - after), after - np.minimum(before, 1 - before)
        changes = np.where(same, np.abs(before - after), np.maximum(lost, gained))
        return float(changes.max(initial=0.0))

    def tokens(self, item: NerInput) -> int:
        return 2 + len(item.text) // CHARACTERS_PER_TOKEN

    def samples(self) -> list[NerInput]:
        sentence = "Clara Weiss took the train from Berlin to Oslo."
        return [NerInput(text=sentence), NerInput(text=" ".join([sentence] * 8))]

    # --- the prediction log ------------------------------------------------------------------------------------------

    def summary(self, output: Entities, options: NerOptions) -> tuple[str | None, float | None]:
        """The type of the surest entity and its score; `tags.OUTSIDE` where nothing was found."""
        if not self.scorable(options):
            return None, None
        surest = max(output.entities, key=lambda entity: entity.score, default=None)
        return (tags.OUTSIDE, None) if surest is None else (surest.label, surest.score)

    def brief(self, output: Entities, item: NerInput) -> Entities:
        entities = tuple(replace(entity, word=item.text[entity.start : entity.end]) for entity in output.entities)
        return Entities(entities=entities, word_labels=(), word_scores=())

    def scorable(self, options: NerOptions) -> bool:
        """Not where tokens were asked for, or some types left out."""
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
    def to_wire(cls, output: Entities) -> list[dict[str, Any]]:
        return [
            {"entity_group": entity.label, "score": entity.score, "word": entity.word, "start": entity.start, "end": entity.end}
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

    # --- training and judging ----------------------------------------------------------------------------------------

    def input_of(self, example: NerExample) -> NerInput:
        return NerInput.model_construct(text=example.text)

    def targets(self, examples: Sequence[NerExample], windows: Windows) -> list[list[int]]:
        """For the first token of each word B-X where it is the first that has a character of an entity, I-X where it is a later
        one, else O. The other tokens of words are not learned from: names that happen to be cut into many pieces would
        outweigh the rest, and be learned by heart (benchmarks/RESULTS.md).
        """
        targets = []
        for example, mine in zip(examples, windows.of_input(), strict=True):
            encodings = windows.encodings[mine.start : mine.stop]
            parts = self._token_owner_slices(encodings, self.Options())
            offsets = _offsets(encodings, parts)
            starts = _starts(example.text, offsets)
            tagged = np.full(len(offsets), IGNORED)
            tagged[starts] = self._tagged(spanned(offsets, starts), example.entities)
            done = 0
            for encoding, part in zip(encodings, parts, strict=True):
                first, after = _bounds(encoding)
                begin = done - (part.start - first)
                row = np.full(len(encoding), IGNORED)
                row[first:after] = tagged[begin : begin + after - first]
                targets.append(row.tolist())
                done += part.stop - part.start
        return targets

    def _tagged(self, offsets: NDArray[np.int64], entities: Sequence[Span]) -> NDArray[np.int64]:
        """Labels [n] of a text's words, which stand at ``offsets`` [n, 2]."""
        places = {name: place for place, name in enumerate(self.labels)}
        labels = np.full(len(offsets), places[tags.OUTSIDE])
        if not entities:
            return labels
        starts, ends = np.array([(span.start, span.end) for span in entities]).T
        nearest = np.searchsorted(ends, offsets[:, 0], side="right")  # the first entity that ends after the token's beginning
        inside = np.flatnonzero(starts[np.minimum(nearest, len(ends) - 1)] < np.where(nearest < len(ends), offsets[:, 1], 0))
        found, first = np.unique(nearest[inside], return_index=True)
        labels[inside] = np.array([places[f"I-{span.label}"] for span in entities])[nearest[inside]]
        labels[inside[first]] = [places[f"B-{entities[entity].label}"] for entity in found]
        return labels

    def score(self, outputs: Sequence[Entities], examples: Sequence[NerExample]) -> Score:
        """Of whole entities, right when type, start and end are: precision, recall and F1 over all of them (``f1`` is micro),
        for each type, and the mean F1 of the types that occur as truth or prediction. These are seqeval's strict scores.
        ``accuracy`` is the share of characters, white space left out, whose type (or none) is right.

        A score without anything to divide by is 0, as with seqeval's ``zero_division=0``.
        """
        found = [{(entity.label, entity.start, entity.end) for entity in output.entities} for output in outputs]
        truth = [{(span.label, span.start, span.end) for span in example.entities} for example in examples]
        right = [one & other for one, other in zip(found, truth, strict=True)]
        statistics = np.array([list(map(len, sides)) for sides in zip(right, found, truth, strict=True)], dtype=np.int32)
        statistics = statistics.reshape(-1, 3)
        counts = [Counter(label for entities in side for label, _, _ in entities) for side in (right, found, truth)]
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

    def resample(self, statistics: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Micro-F1 = 2 · right / (found + true), counts weighted; 0 where nothing is found and nothing true."""
        right, found, truth = (weights.astype(np.float64) @ statistics).T
        result: NDArray[np.float64] = np.divide(2 * right, found + truth, out=np.zeros(len(weights)), where=found + truth > 0)
        return result


def _bounds(encoding: Encoding) -> tuple[int, int]:
    """The position of the first token that is not special, and the one after the last."""
    special = encoding.special_tokens_mask
    count = special.count(0)
    first = special.index(0) if count else len(special)
    return first, first + count


def _offsets(encodings: Sequence[Encoding], parts: Sequence[slice]) -> NDArray[np.int64]:
    """Where in the text the tokens of these parts begin and end [n, 2]."""
    pairs = [pair for encoding, part in zip(encodings, parts, strict=True) for pair in encoding.offsets[part]]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _starts(text: str, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first token of each word, of tokens that stand at ``offsets``: the first of all, and those by whose end more words
    have begun than by the end of any before. So tokens that share a character (Hangul, taken apart) do not begin it twice, and
    a word whose first character the tokenizer drops begins with what is left of it.
    """
    begun = np.append(0, np.cumsum(word_starts(text)))[offsets[:, 1]]
    return np.flatnonzero(np.diff(np.maximum.accumulate(begun), prepend=-1))


def _ratios(right: int, found: int, truth: int) -> dict[str, Any]:
    return {
        "f1": 2 * right / (found + truth) if found + truth else 0.0,
        "precision": right / found if found else 0.0,
        "recall": right / truth if truth else 0.0,
        "support": truth,
    }


def _types(length: int, spans: Iterable[Entity | Span]) -> list[str]:
    """The type of each character of a text of this length."""
    types = [tags.OUTSIDE] * length
    for span in spans:
        types[span.start : span.end] = [span.label] * (span.end - span.start)
    return types


def _character_accuracy(outputs: Sequence[Entities], examples: Sequence[NerExample]) -> float:
    right = total = 0
    for output, example in zip(outputs, examples, strict=True):
        sides = (_types(len(example.text), side) for side in (output.entities, example.entities))
        same = [one == other for character, one, other in zip(example.text, *sides, strict=True) if not character.isspace()]
        right += sum(same)
        total += len(same)
    return right / total if total else 0.0
