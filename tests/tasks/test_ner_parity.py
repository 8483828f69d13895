"""Named entities: the answers of the Hugging Face pipeline with the same weights, for each strategy asked for by its name.

What is compared exactly: how many entities, their labels, starts and ends (for ``none`` also indices); scores within 1e-4.
``word`` is the slice of the text by intent, and not the pipeline's.

Where tokens share characters, the pipeline answers entities that overlap; we answer one of them, by the pipeline's own rule
for windows (`aggregate_overlapping_entities`), which the tests apply to its answers. WordPiece has such tokens where a
normaliser takes characters apart, which for BERT's means Hangul: the tests hold that no other text is touched.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from baton.config.base_models import find_base_model
from baton.engines import EngineSettings, load_engine
from baton.predict.predictor import Predictor, load_tokenizer
from baton.tasks.ner import Ner
from baton.tasks.ner_entities import Strategy
from baton.tasks.ner_rows import NerInput
from tests.support.tiny import FILLERS

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
STRATEGIES = ("none", "simple", "first", "average", "max")
"""Of the pipeline. Our own default, ``words``, is none of them."""
LENGTH = 128
SEED = 12
"""Of the heads: their closest call between two labels is 5e-5, far more than what processors differ by."""
HANGUL = re.compile("[\uac00-\ud7a3]")

PIECES = (
    "日本語の漢字",
    "中文，",
    "한국 여행",
    "😀🎉👩‍👩‍👧‍👦",
    "cafe\u0301 Nguye\u0302\u0303n",
    "naïve Ångström",
    "हिन्दी में",
    "שלום \u202eעולם\u202c",
    "مرحبا بالعالم",
    "สวัสดี",
    "привет, Москва",
    "tab\tnew\nline\r\nend",
    "a\u00a0b\u2003c\u200bd",
    "unbelievably" * 2,
    "@home #tag $5.00 <b>&amp;</b>",
    "[SEP] [UNK] [MASK]",
    "\x00\x01",
    "ﬁ ½ Ⅷ ß İ",
    "New York-based",
    "don't",
)


def texts(count: int) -> list[str]:
    """Words of many scripts in random order, and some texts that are hardly any; none has more than ``LENGTH`` tokens."""
    source = random.Random(0)
    words = [*PIECES, *FILLERS, *(word.title() for word in FILLERS)]
    made = [" ".join(source.choice(words) for _ in range(source.randint(1, 6))) for _ in range(count - 4)]
    return [*made, "\x00", "\u200b", ".", " \n"]


def save_tagger(base: Path, directory: Path, *, spread: float = 1.0) -> Path:
    """A token classifier on ``base`` with a random head, saved by transformers; ``spread`` scales how far its scores differ.

    Its biases make every label about as likely as any other.
    """
    import torch
    from transformers import AutoTokenizer

    from baton.engines.torch_engine import load_model

    tokenizer = AutoTokenizer.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = load_model("AutoModelForTokenClassification", base, LABELS).eval()
        torch.nn.init.normal_(model.classifier.weight, std=spread)
    with torch.inference_mode():
        model.classifier.bias -= model(**tokenizer(" ".join(FILLERS), return_tensors="pt")).logits.mean(dim=(0, 1))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_unigram_base(directory: Path) -> Path:
    """A random 2-layer BERT with a tokenizer of another kind: later pieces have no prefix, words keep the space before them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [f"▁{word}" for filler in FILLERS for word in (filler, filler.title())]
    pieces = [(name, 0.0) for name in special] + [(word, -6.0) for word in words] + [(letter, -9.0) for letter in "▁-,.neaou"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        model = BertModel(
            BertConfig(vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=128, pad_token_id=1, **size)
        )
    model.save_pretrained(directory)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names).save_pretrained(directory)
    return directory


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same version, ours and theirs."""

    predictor: Predictor
    pipeline: Any

    def ours(self, asked: Sequence[str], **options: Any) -> list[list[dict[str, Any]]]:
        inputs = [NerInput.model_construct(text=text) for text in asked]
        return [Ner.to_wire(output) for output in self.predictor.predict(inputs, [Ner.Options(**options)] * len(asked))]

    def theirs(self, asked: Sequence[str], **options: Any) -> list[list[dict[str, Any]]]:
        return list(self.pipeline(list(asked), batch_size=64, **options))


def load(directory: Path) -> Pair:
    from transformers import pipeline

    tokenizer, pad_id = load_tokenizer(directory)
    engine = load_engine(directory, Ner.auto_model, Ner.heads, EngineSettings(precision="fp32", device="cpu"))
    return Pair(
        predictor=Predictor(task=Ner(LABELS, LENGTH), tokenizer=tokenizer, pad_id=pad_id, engine=engine, max_batch_tokens=4096),
        pipeline=pipeline("token-classification", str(directory), device="cpu"),
    )


@pytest.fixture(scope="module")
def tiny(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return load(save_tagger(tiny_base, tmp_path_factory.mktemp("tiny-tagger")))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    base = find_base_model("sentence-transformers/all-MiniLM-L6-v2")
    return load(save_tagger(base, tmp_path_factory.mktemp("bundled-tagger")))


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    base = save_unigram_base(tmp_path_factory.mktemp("unigram-base"))
    return load(save_tagger(base, tmp_path_factory.mktemp("unigram-tagger"), spread=0.3))


def places(entities: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (entity.get("entity_group", entity.get("entity")), entity["start"], entity["end"], entity.get("index"))
        for entity in entities
    ]


def assert_same(asked: str, found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert places(found) == places(expected), asked
    assert [entity["score"] for entity in found] == pytest.approx([entity["score"] for entity in expected], abs=1e-4), asked
    assert [entity["word"] for entity in found] == [asked[entity["start"] : entity["end"]] for entity in found]


def compare(pair: Pair, asked: Sequence[str], strategy: str, ignored: Sequence[str] | None) -> list[list[dict[str, Any]]]:
    """Assert that both answer alike; return our answers."""
    options = {"aggregation_strategy": strategy, "ignore_labels": ignored}
    answers = pair.ours(asked, **options)
    for text, found, expected in zip(asked, answers, pair.theirs(asked, **options), strict=True):
        apart = expected if strategy == "none" else pair.pipeline.aggregate_overlapping_entities(expected)
        assert len(apart) == len(expected) or HANGUL.search(text), text
        assert_same(text, found, apart)
    return answers


def test_all_strategies_but_our_own_are_compared_with_the_pipeline():
    assert set(STRATEGIES) == set(get_args(Strategy)) - {Ner.Options().aggregation_strategy}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_answers_as_the_pipeline_does(tiny, strategy):
    asked = texts(600)
    answers = compare(tiny, asked, strategy, None)
    assert sum(not found for found in answers) > 5  # texts that give no entities
    assert {label.removeprefix("B-").removeprefix("I-") for found in answers for label, *_ in places(found)} == {
        "PER", "LOC", "ORG",
    }  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ignored", [(), ("PER", "B-LOC")])
def test_labels_are_ignored_as_the_pipeline_does(tiny, strategy, ignored):
    compare(tiny, texts(100), strategy, list(ignored))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_real_vocabulary_is_cut_into_words_as_the_pipeline_does(bundled, strategy):
    asked = texts(80)
    answers = compare(bundled, asked, strategy, None)
    assert sum(map(len, answers)) > 3 * len(asked)


def test_few_texts_have_entities_that_overlap_in_the_pipelines_answers(bundled):
    asked = texts(80)
    answers = bundled.theirs(asked, aggregation_strategy="simple")
    touched = [text for text, found in zip(asked, answers, strict=True)
               if len(bundled.pipeline.aggregate_overlapping_entities(found)) < len(found)]  # fmt: skip
    assert 0 < len(touched) <= sum(bool(HANGUL.search(text)) for text in asked) < len(asked) / 5


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_tokenizers_are_answered_alike_but_for_white_space_at_the_edges_of_entities(unigram, strategy):
    asked = texts(150)
    options = {"aggregation_strategy": strategy}
    spacious = 0
    for text, found, answer in zip(asked, unigram.ours(asked, **options), unigram.theirs(asked, **options), strict=True):
        expected = answer
        if strategy != "none":
            expected = unigram.pipeline.aggregate_overlapping_entities([entity for entity in map(trim(text), answer) if entity])
            spacious += places(expected) != places(answer)
        assert_same(text, found, expected)
    assert (spacious > 0) == (strategy != "none")


def trim(text: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """An entity of ``text`` without white space at its edges; None where nothing else is left."""

    def trimmed(entity: dict[str, Any]) -> dict[str, Any] | None:
        part = text[entity["start"] : entity["end"]]
        start = entity["start"] + len(part) - len(part.lstrip())
        return {**entity, "start": start, "end": start + len(part.strip())} if part.strip() else None

    return trimmed
