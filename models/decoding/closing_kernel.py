"""What may not be taken is closed in one kernel a level, on cards that Triton compiles for.

Nothing is read but a byte a child and the list of emptied nodes, and nothing written but the closed
scores: of PyTorch's operators it takes up to twenty, which read and write them all.

B requests, W beams, K children of a node (padded), P nodes of a level, S scenarios, E entries.
"""

import torch
import triton
import triton.language as tl

CHILDREN_AT_ONCE = 1_024


# One program for every number: a batch's own would each be compiled while it waits.
@triton.jit(
    do_not_specialize=["entries", "beams", "degree", "size"],
    do_not_specialize_on_alignment=["scores_BWK", "nodes_BWK", "closed_SP", "emptied_E"],
)
def _close(  # type: ignore[no-untyped-def]  # annotations would be read as Triton's types
    scores_BWK,
    nodes_BWK,
    closed_SP,
    scenario_B,
    emptied_E,
    entries,
    beams,
    degree,
    size,
    AT_ROOTS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """A program a beam and `AT_ONCE` of its children, whose nodes stand behind each other."""
    beam = tl.program_id(0).to(tl.int64)
    request = beam // beams
    first = tl.cast(0, tl.int64)
    if not AT_ROOTS:
        first = tl.load(nodes_BWK + beam * degree)
    scores_K = scores_BWK + beam * degree
    closed_P = closed_SP + tl.load(scenario_B + request) * size
    steps = tl.program_id(1) * AT_ONCE + tl.arange(0, AT_ONCE)
    # Behind a beam's last child stand nodes of others: their slots are padding, -inf already.
    there = (steps < degree) & (first + steps < size)
    shut = tl.load(closed_P + first + steps, mask=there, other=0) != 0
    tl.store(scores_K + steps, float("-inf"), mask=shut)
    own = request * size + first + tl.program_id(1) * AT_ONCE
    end = tl.minimum(own + AT_ONCE, request * size + first + degree)
    low = tl.cast(0, tl.int32)
    high = low + entries
    while low < high:
        middle = (low + high) // 2
        below = tl.load(emptied_E + middle) < own
        low = tl.where(below, middle + 1, low)
        high = tl.where(below, high, middle)
    place = tl.load(emptied_E + low)  # the list's END at the latest, which is behind all
    while place < end:
        tl.store(scores_K + (place - request * size - first), float("-inf"))
        low += 1
        place = tl.load(emptied_E + low)


def close_children(
    scores_BWK: torch.Tensor,
    nodes_BWK: torch.Tensor | None,
    closed_SP: torch.Tensor,
    scenario_B: torch.Tensor,
    emptied_E: torch.Tensor,
) -> None:
    """Makes scores -inf, in place, where no eligible item stands below a node.

    `scores_BWK` float32, contiguous; `nodes_BWK` int64, contiguous: padded children of one level's
    nodes, or None for the roots, which are 0, 1, .. K - 1; `closed_SP` bool; `emptied_E` int64:
    sorted numbers b * P + node, at least one `END` behind them. All on one card.
    """
    requests, beams, degree = scores_BWK.shape
    assert scores_BWK.is_contiguous()
    assert nodes_BWK is None or nodes_BWK.is_contiguous()
    grid = (requests * beams, triton.cdiv(degree, CHILDREN_AT_ONCE))
    with torch.cuda.device_of(scores_BWK):  # Triton launches on the current one
        _close[grid](
            scores_BWK,
            scenario_B if nodes_BWK is None else nodes_BWK,  # of roots nothing is read
            closed_SP.view(torch.uint8),
            scenario_B,
            emptied_E,
            len(emptied_E),
            beams,
            degree,
            closed_SP.shape[1],
            AT_ROOTS=nodes_BWK is None,
            AT_ONCE=CHILDREN_AT_ONCE,
        )
