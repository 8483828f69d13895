"""A tiny random T5 that reads and writes characters, and something for it to learn: dates → ISO dates."""

from __future__ import annotations

import random
from pathlib import Path

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
FORMS = ("{day} {name} {year}", "{name} {day}, {year}")

PAD, END, UNKNOWN = 0, 1, 2
"""Ids of the special tokens."""


def date_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Return different dates, as people write them, with the same dates as ISO 8601 writes them."""
    source = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        year, month, day = source.randint(1950, 2049), source.randint(1, 12), source.randint(1, 28)
        text = source.choice(FORMS).format(year=year, month=month, day=day, name=MONTHS[month - 1])
        found[text] = f"{year}-{month:02}-{day:02}"
    return [{"source": text, "target": date} for text, date in found.items()]


def build_tiny_writer(directory: Path, *, width: int = 64, layers: int = 1, spread: float | None = None) -> Path:
    """Write a random T5 and its tokenizer of ASCII characters to ``directory``. Return ``directory``.

    ``spread``: deviation of the weights, for a model that writes something else for each source; None: T5's own beginning, from
    which it learns.
    """
    import torch
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    tokenizer = character_tokenizer()
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=layers,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
        for parameter in model.parameters() if spread is not None else ():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=spread)
    model.save_pretrained(directory)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    return directory


def character_tokenizer():
    """Return a tokenizer with one token for each printable ASCII character; a text ends with ``</s>``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = ["<pad>", "</s>", "<unk>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
