"""A BERT encoder of MiniLM's shape in a folder of a few kilobytes, with eleven words."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "umbrella", "##s", "rain", "tent", "for", "two"]
WIDTH, HEADS, LAYERS, INNER, LONGEST = 12, 3, 2, 20, 9
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 16,
}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    shapes = {
        "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (16, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        square = [f"attention.self.{p}" for p in ("query", "key", "value")]
        for name in (*square, "attention.output.dense"):
            shapes |= {f"{at}.{name}.weight": (WIDTH, WIDTH), f"{at}.{name}.bias": (WIDTH,)}
        shapes |= {f"{at}.intermediate.dense.weight": (INNER, WIDTH)}
        shapes |= {f"{at}.intermediate.dense.bias": (INNER,)}
        shapes |= {f"{at}.output.dense.weight": (WIDTH, INNER), f"{at}.output.dense.bias": (WIDTH,)}
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}.{norm}.weight": (WIDTH,), f"{at}.{norm}.bias": (WIDTH,)}
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def write_encoder_folder(target: Path, seed: int = 0) -> Path:
    """Writes the encoder of a seed into `target`; returns it."""
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(
        WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]")  # noqa: S106  a word, no password
    )
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(target / "tokenizer.json"))
    (target / "config.json").write_text(json.dumps(CONFIG))
    (target / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LONGEST}))
    save_file(weights(seed), target / "model.safetensors")
    return target
