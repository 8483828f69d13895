"""Tiny random models of the families that people fine-tune, saved as Hugging Face directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

POSITIONS = 140
"""Position embeddings of each model; some families keep two of them for themselves."""

COMMON = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
    "mpnet": {"pad_token_id": 1},
    "electra": {"embedding_size": 32},
    "albert": {"embedding_size": 16},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32},
    "modernbert": {"local_attention": 16, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "longformer": {"attention_window": [16, 16], "sep_token_id": 2},
    "big_bird": {"attention_type": "block_sparse"},
    "convbert": {"embedding_size": 32},
    "ernie": {},
    "squeezebert": {"embedding_size": 32},
    "nomic_bert": {},
    "eurobert": {"num_key_value_heads": 4},
    "qwen2": {"num_key_value_heads": 2},
    "llama": {"num_key_value_heads": 2},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "sep_token_id": 2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "data2vec-text": {"pad_token_id": 1},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "pad_index": 0, "n_words": 99},
    "fnet": {},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS},
    "ibert": {"pad_token_id": 1},
    "megatron-bert": {},
    "mistral": {"num_key_value_heads": 2},
    "nystromformer": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi3": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roformer": {"embedding_size": 32, "type_vocab_size": 2},
    "xlm": {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "pad_index": 0, "n_words": 99},
}
"""Differences from `COMMON` of each family's configuration, by its model type."""

T5 = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "eos_token_id": 1, "decoder_start_token_id": 0}
BART = {
    **{f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in (("layers", 2), ("attention_heads", 4))},
    **{f"{half}_ffn_dim": 64 for half in ("encoder", "decoder")},
    "eos_token_id": 2,
}

WRITERS: dict[str, dict[str, Any]] = {
    "bart": {**BART, "pad_token_id": 1, "bos_token_id": 0, "decoder_start_token_id": 2, "forced_bos_token_id": 0},
    "mt5": T5,
    "pegasus": {**BART, "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
    "t5": T5,
    "umt5": T5,
}
"""The same of the families that write."""

NOT_EXPORTABLE = ("fnet", "longformer")
"""Families that ONNX Runtime cannot run."""

CLASSES, TOKENS, SPAN, TEXT = (
    f"AutoModelFor{task}" for task in ("SequenceClassification", "TokenClassification", "QuestionAnswering", "Seq2SeqLM")
)

WITHOUT = {
    TOKENS: ("gemma3_text", "opt"),
    SPAN: ("eurobert", "gemma", "gemma3_text", "nomic_bert", "phi3"),
}
"""Families for which transformers has no such class."""


def made_for(auto_model: str) -> list[str]:
    """Return the families of which there are such models."""
    if auto_model == TEXT:
        return list(WRITERS)
    return [family for family in FAMILIES if family not in WITHOUT.get(auto_model, ())]


def save_family(model_type: str, auto_model: str, directory: Path, labels: int = 5) -> Path:
    """Write a random model of a family to ``directory`` and return it. Its weights are large, so that inputs matter."""
    import torch
    import transformers

    values = COMMON | (FAMILIES | WRITERS)[model_type]
    if model_type in WRITERS:  # where the name of the size is another one
        values["d_model"] = values.pop("hidden_size")
    if model_type == "xlnet":  # it has relative positions, and refuses a number
        del values["max_position_embeddings"]
    config = transformers.AutoConfig.for_model(model_type, **values)
    if auto_model not in (SPAN, TEXT):
        config.num_labels = labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, auto_model).from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(directory)
    return directory
