"""A real BERT small enough to train in seconds, and rows that it can learn from. No test data is downloaded."""

from __future__ import annotations

import hashlib
import itertools
import random
import string
from collections.abc import Sequence
from pathlib import Path

TOPICS = {
    "billing": ("invoice", "charge", "payment", "receipt", "refund"),
    "shipping": ("parcel", "courier", "delivery", "tracking", "package"),
    "account": ("password", "login", "profile", "email", "username"),
    "bug": ("crash", "error", "freeze", "broken", "exception"),
    "feature": ("suggest", "wish", "improve", "option", "support"),
    "cancel": ("cancel", "terminate", "unsubscribe", "leave", "stop"),
    "positive": ("great", "lovely", "excellent", "wonderful", "superb"),
    "negative": ("awful", "terrible", "horrible", "dreadful", "poor"),
    "sports": ("goal", "match", "referee", "league", "coach"),
    "weather": ("rain", "storm", "cloud", "sunshine", "wind"),
}
"""Keywords of labels with these names; any other label gets made-up words, always the same ones."""

OPENINGS = ("hello", "hi", "so", "well", "please", "today", "again", "yesterday", "honestly", "just now")
MIDDLES = (
    "i have a question about the {}",
    "there is something about this {} that we saw",
    "my {} from last week is what i write about",
    "can you look at the {} for me",
    "we talked about a {} on the phone",
    "it is the {} that i mean",
    "about {} and nothing else",
    "the {} came up in our team",
    "what happens with the {} now",
    "nobody here knows the {}",
)
FOREIGN = "中文日本語漢字한국שלוםمرحباпривет😀🎉"
"""Characters that the tokenizer knows beside ASCII, so that texts in other scripts are more than [UNK]."""

FILLERS = (
    "table", "window", "river", "green", "small", "morning", "paper", "house", "seven", "quiet", "garden", "letter", "music",
    "winter", "bread", "stone", "number", "yellow", "market", "friend", "summer", "corner", "bridge", "pencil", "silver",
    "monday", "coffee", "island", "forest", "candle", "mirror", "basket", "button", "pocket", "ladder", "orange", "travel",
)  # fmt: skip


def build_tiny_base(directory: Path) -> Path:
    """Write a random 2-layer BERT (hidden 64, 128 positions) with its tokenizer into ``directory``; returns it."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = _tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(config)
        with torch.no_grad():
            for layer in model.encoder.layer:  # values and outputs pass tokens on, so that [CLS] starts as a bag of words
                torch.nn.init.eye_(layer.attention.self.value.weight).mul_(4)
                torch.nn.init.eye_(layer.attention.output.dense.weight)
            torch.nn.init.eye_(model.pooler.dense.weight)
        model.save_pretrained(directory)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(directory)
    return directory


def save_classifier(base: Path, labels: Sequence[str], directory: Path, *, spread: float = 1.0) -> Path:
    """A classifier on ``base`` with a random head, saved by transformers; ``spread`` scales how far its scores differ."""
    import torch
    from transformers import AutoTokenizer

    from baton.engines.torch_engine import load_model

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = load_model("AutoModelForSequenceClassification", base, labels)
        torch.nn.init.normal_(model.classifier.weight, std=spread)
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    return directory


def keyword_rows(n: int, labels: Sequence[str], seed: int, noise: float = 0.0) -> list[dict[str, str]]:
    """``n`` rows with distinct texts, labels in balance; a share ``noise`` of them carries another label than its keyword."""
    source = random.Random(seed)
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    wanted = itertools.cycle(labels)
    while len(rows) < n:
        label = next(wanted)
        text = _sentence(source, keywords(label))
        while text in seen:
            text = _sentence(source, keywords(label))
        seen.add(text)
        if source.random() < noise:
            label = source.choice([other for other in labels if other != label])
        rows.append({"text": text, "label": label})
    source.shuffle(rows)
    return rows


def keywords(label: str) -> tuple[str, ...]:
    """The words that give ``label`` away; they depend on nothing but its name."""
    if label in TOPICS:
        return TOPICS[label]
    source = random.Random(hashlib.sha256(label.encode()).hexdigest())
    return tuple("".join(source.choice("bdfgklmnprstvz") + source.choice("aeiou") for _ in "ab") for _ in range(4))


def _sentence(source: random.Random, words: Sequence[str]) -> str:
    fillers = source.sample(FILLERS, source.randint(1, 3))
    return f"{source.choice(OPENINGS)}, {source.choice(MIDDLES).format(source.choice(words))}: {' '.join(fillers)}."


def _tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase
    characters = sorted({*letters, *string.digits, *string.punctuation, *FOREIGN})
    pairs = [first + second for first in letters for second in letters]
    words = {word for group in TOPICS.values() for word in group} | set(FILLERS)
    words |= {word for line in (*OPENINGS, *MIDDLES) for word in line.replace("{}", "").split()}
    pieces = [*special, *characters, *(f"##{it}" for it in characters), *pairs, *(f"##{it}" for it in pairs)]
    vocabulary = dict.fromkeys([*pieces, *sorted(words)])
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer
