"""A real BERT that trains in seconds, and rows that it can learn. Nothing is downloaded."""

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
"""Keywords of labels with these names. Other labels get random words that depend only on the name."""

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
"""Characters outside ASCII in the tokenizer's vocabulary, so that texts in other scripts do not become [UNK]."""

FILLERS = (
    "table", "window", "river", "green", "small", "morning", "paper", "house", "seven", "quiet", "garden", "letter", "music",
    "winter", "bread", "stone", "number", "yellow", "market", "friend", "summer", "corner", "bridge", "pencil", "silver",
    "monday", "coffee", "island", "forest", "candle", "mirror", "basket", "button", "pocket", "ladder", "orange", "travel",
)  # fmt: skip


def build_tiny_base(directory: Path) -> Path:
    """Write a random 2-layer BERT (hidden 64, 128 positions) and its tokenizer to ``directory``. Return ``directory``."""
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
            for layer in model.encoder.layer:  # attention passes tokens on unchanged, so that [CLS] starts as a bag of words
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
    """Save a classifier on ``base`` with a random head to ``directory``. ``spread``: deviation of its weights."""
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
    """Return ``n`` rows with distinct texts and balanced labels. A share ``noise`` of them has a wrong label."""
    rng = random.Random(seed)
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    wanted = itertools.cycle(labels)
    while len(rows) < n:
        label = next(wanted)
        text = _sentence(rng, keywords(label))
        while text in seen:
            text = _sentence(rng, keywords(label))
        seen.add(text)
        if rng.random() < noise:
            label = rng.choice([other for other in labels if other != label])
        rows.append({"text": text, "label": label})
    rng.shuffle(rows)
    return rows


def keywords(label: str) -> tuple[str, ...]:
    """Return the keywords of ``label``. They depend only on its name."""
    if label in TOPICS:
        return TOPICS[label]
    rng = random.Random(hashlib.sha256(label.encode()).hexdigest())
    return tuple("".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in "ab") for _ in range(4))


def _sentence(rng: random.Random, words: Sequence[str]) -> str:
    fillers = rng.sample(FILLERS, rng.randint(1, 3))
    return f"{rng.choice(OPENINGS)}, {rng.choice(MIDDLES).format(rng.choice(words))}: {' '.join(fillers)}."


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
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer
