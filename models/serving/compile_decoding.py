"""Compiles a decoding program ahead of time (AOTInductor): a minute, and a C++ compiler.

The result holds no weights and no catalogue: one artefact serves every version of a generator of
this shape, and every catalogue of its depth. `python -m models.serving.compile_decoding CONFIG
BEAMS PATH` does it in a process of its own (CONFIG is the JSON of `generator.json`).
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from models.decoding.item_index import UNKNOWN, ItemIndex
from models.generator.config import GeneratorConfig
from models.generator.generator import Generator
from models.serving.decoding_program import DecodingProgram, IndexTensors, laid_out, made

EXAMPLE = (2, 70, 6)  # requests, history positions, exclusions: no size may be 1, nor equal another


def main(config: str, beams: str, path: str) -> None:
    """Compiles the program of a generator of these sizes."""
    generator = Generator(GeneratorConfig.from_json(json.loads(config))).eval()
    compile_program(DecodingProgram(generator, int(beams)), Path(path))


def compile_program(program: DecodingProgram, path: Path) -> Path:
    """Compiles the program into `path` (`.pt2`)."""
    from torch._inductor import aoti_compile_and_package  # 4 s of imports that serving never needs

    config = program.generator.config
    program.generator.load_state_dict(laid_out(program.generator), assign=True)
    request, excluded, index = _example(program.generator, config, program.beams)
    with torch.no_grad():
        exported = torch.export.export(
            program,
            (request, excluded, index),
            dynamic_shapes=_shapes(config.levels, program.beams),
            strict=False,
        ).run_decompositions(_PLAIN)
        aoti_compile_and_package(
            exported,
            package_path=str(path),
            inductor_configs={
                "aot_inductor.package_constants_in_so": False,
                "cpp.threads": 1,  # as serving is
                "assert_indirect_indexing": False,  # requests are checked where they are collated
                "scalar_asserts": False,
                "size_asserts": False,
            },
        )
    return path


def _example(
    generator: Generator, config: GeneratorConfig, beams: int
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, tuple[Any, ...]]:
    batch, history, exclusions = EXAMPLE
    index = _example_index(config, beams)
    vectors_ND = torch.zeros(len(index.keys_N), config.width)
    request = (
        torch.zeros(batch, history, dtype=torch.int64),
        torch.zeros(batch, history, dtype=torch.int64),
        torch.zeros(batch, history, dtype=torch.int64),
        torch.zeros(batch, dtype=torch.int64),
        torch.full((batch,), UNKNOWN),
        torch.zeros(batch, config.content_dim),
        torch.zeros(batch, dtype=torch.bool),
    )
    excluded = torch.zeros(batch, exclusions, dtype=torch.int64)
    return request, excluded, tuple(IndexTensors.of(index, vectors_ND))


def _example_index(config: GeneratorConfig, beams: int) -> ItemIndex:
    below = 3 * 2 ** (config.levels - 1)
    items = torch.arange((beams + 3) * below)
    codes = [items // below, *(items // 2**level % 2 for level in range(config.levels - 1))]
    return ItemIndex.build(
        keys=items,
        codes=torch.stack(codes, dim=1),
        content=torch.zeros(len(items), config.content_dim),
        scenarios=torch.ones(config.scenarios, len(items), dtype=torch.bool),
    )


def _shapes(levels: int, beams: int) -> tuple[Any, ...]:
    def free(*dims: int) -> dict[int, Any]:
        return dict.fromkeys(dims, Dim.DYNAMIC)

    roots = {0: Dim("roots", min=beams)}
    request = (free(0, 1), free(0, 1), free(0, 1), free(0), free(0), free(0), free(0))
    index = (
        [roots, *[free(0)] * (levels - 1)],
        [free(0)] * levels,
        free(0),
        [free(0)] * levels,
        [free(0)] * (levels - 1),
        [free(1)] * levels,
        free(0),
        free(0),
        free(1),
        free(0),
        free(0),
        free(0),
    )
    return request, free(0, 1), index


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    """A product, and the bias where the next kernel reads it: not as a copy before the product."""
    out = x.reshape(-1, x.shape[-1]) @ weight.t()
    if bias is not None:
        out = (out.unsqueeze(0) + bias).squeeze(0)  # a bare sum would be put back into the product
    return out.view(*x.shape[:-1], weight.shape[0])


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention written out: at these sizes the fused call is mostly its own preparation."""
    if enable_gqa:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    q = q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if one := q.shape[-2] == 1:
        weights = (q * k).sum(dim=-1).unsqueeze(-2)
    else:
        weights = q @ k.transpose(-1, -2)
    if is_causal:
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        weights = weights.masked_fill(~seen, -torch.inf)
    if attn_mask is not None:
        weights = weights.masked_fill(~attn_mask, -torch.inf)
    weights = weights.softmax(dim=-1)
    return (weights.transpose(-1, -2) * v).sum(dim=-2, keepdim=True) if one else weights @ v


def _embedding(
    weight: torch.Tensor,
    places: torch.Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> torch.Tensor:
    return weight[made(places)]


def _layer_norm(
    x: torch.Tensor,
    shape: list[int],
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> torch.Tensor:
    x = x - x.mean(dim=-1, keepdim=True)
    scale = (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    return made(x * scale * weight + bias)


def _log_softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    x = made(x)
    x = x - x.amax(dim=dim, keepdim=True)
    return x - x.exp().sum(dim=dim, keepdim=True).log()


_ATEN = torch.ops.aten
_PLAIN: dict[Any, Any] = {
    _ATEN.linear.default: _linear,
    _ATEN.scaled_dot_product_attention.default: _attention,
    _ATEN.embedding.default: _embedding,
    _ATEN.layer_norm.default: _layer_norm,
    _ATEN.log_softmax.int: _log_softmax,
}


if __name__ == "__main__":
    main(*sys.argv[1:])
