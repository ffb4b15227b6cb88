"""The two distributions over codes, against a softmax written out."""

import numpy as np
import pytest
import torch

from models.decoding import legal
from models.decoding.item_index import ItemIndex
from models.decoding.legal import CodeHead, ScoreSemantics, sid_logprobs
from tests.models.decoding.brute_force import LOGPROBS, Sid

CODES = 12
WIDTH = 6


@pytest.mark.parametrize("dense_up_to", [0, 32], ids=["gathered rows", "dense product"])
@pytest.mark.parametrize("semantics", list(ScoreSemantics))
def test_both_ways_of_the_head_give_the_written_out_softmax(
    semantics: ScoreSemantics, dense_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legal, "DENSE_UP_TO", dense_up_to)
    rng = np.random.default_rng(3)
    sids = np.unique(rng.integers(0, CODES, (60, 3)) // [2, 1, 3], axis=0)
    count = len(sids)
    index = ItemIndex.build(
        keys=torch.arange(count), codes=torch.from_numpy(sids), content=torch.zeros(count, 1)
    )
    head = CodeHead(
        torch.from_numpy(rng.standard_normal((3, CODES, WIDTH)).astype(np.float32)),
        torch.from_numpy(rng.standard_normal((3, CODES)).astype(np.float32)),
    )
    by_prefix: dict[Sid, torch.Tensor] = {}
    rows: list[Sid] = [tuple(sid) for sid in sids.tolist()]
    for sid in rows:
        for level in range(3):
            state = torch.from_numpy(rng.standard_normal(WIDTH).astype(np.float32))
            by_prefix.setdefault(sid[:level], state)
    states = torch.stack([torch.stack([by_prefix[sid[:n]] for n in range(3)]) for sid in rows])
    logits = {
        prefix: (head.weight_LVD[len(prefix)] @ state + head.bias_LV[len(prefix)]).tolist()
        for prefix, state in by_prefix.items()
    }
    wanted = LOGPROBS[semantics](rows, logits)
    found = sid_logprobs(states, head, index, torch.from_numpy(sids), semantics)
    for sid, own in zip(rows, found.tolist(), strict=True):
        assert own == pytest.approx(wanted[sid], abs=1e-5)
