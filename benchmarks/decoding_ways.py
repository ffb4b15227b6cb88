"""Other ways to decode only items that exist, with the generator's own weights and decoder steps.

Each takes one request from its collated batch to its SIDs, as `ours` does; what is built once a
catalogue (tables, tries, live SIDs) is built beforehand and not timed. All of them share the
context and the vectors of the items, so a difference is the search's alone.

Legend: W beams, V codes, L levels, P prefixes, S live SIDs.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch.nn import functional as F

from models.decoding.legal import ScoreSemantics, sid_logprobs
from models.decoding.masks import Masks
from models.generator.batch import Batch
from models.generator.decoder import Decoding
from models.serving.policy_directory import LoadedPolicy

Sid = tuple[int, ...]
Way = Callable[[], list[Sid]]
Trie = dict[int, "Trie"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request, and everything that a way may have at hand before it."""

    policy: LoadedPolicy
    batch: Batch
    excluded_BE: torch.Tensor
    beams: int
    vectors_ND: torch.Tensor
    live: list[Sid]  # sorted

    def begin(self) -> Decoding:
        """Encodes the request."""
        return self.policy.generator.begin(self.batch, self.policy.index, self.vectors_ND)

    def masks(self) -> Masks:
        """Returns what the request may be given."""
        return self.policy.index.masks(self.batch.scenario_B, self.excluded_BE)


class Unmasked(Masks):
    """Takes the place of masks and leaves every score as it is."""

    def close_roots(self, logprobs_BP: torch.Tensor) -> torch.Tensor:
        """Returns `logprobs_BP`."""
        return logprobs_BP

    def close(self, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor) -> torch.Tensor:
        """Returns `scores_BWK`."""
        return scores_BWK


def ours(task: Task, semantics: ScoreSemantics) -> Way:
    """The search that serves."""
    return _searched(task, semantics, task.masks)


def without_masks(task: Task) -> Way:
    """The search that serves without any mask operation: what is out of stock is found as well."""
    nobody = task.policy.index.masks(task.batch.scenario_B, task.excluded_BE[:, :0])
    unmasked = Unmasked(**{field.name: getattr(nobody, field.name) for field in fields(nobody)})
    return _searched(task, ScoreSemantics.LEGAL, lambda: unmasked)


def _searched(task: Task, semantics: ScoreSemantics, masks: Callable[[], Masks]) -> Way:
    index = task.policy.index
    sids_SL = index.sids

    def run() -> list[Sid]:
        found = task.policy.generator.search(task.begin(), index, masks(), task.beams, semantics)
        leaves_W = found.leaves_BW[0][found.live_BW[0]]
        return [tuple(sid) for sid in sids_SL[leaves_W].tolist()]

    return run


def unconstrained(task: Task) -> Way:
    """A beam search over all V codes, without index or masks: most of what it returns is no SID."""
    return _over_all_codes(task, lambda _level, _prefixes_WL: None)


def dense_table(task: Task) -> Way:
    """All V logits of every beam, masked by rows of a bool table [P_l, V] (one byte a code)."""
    tables: list[tuple[dict[Sid, int], torch.Tensor]] = []
    levels, codes = len(task.live[0]), task.policy.generator.config.codes
    for level in range(levels):
        rows = {prefix: n for n, prefix in enumerate(sorted({sid[:level] for sid in task.live}))}
        table_PV = torch.zeros(len(rows) + 1, codes, dtype=torch.bool)  # the last row: no SID
        for sid in task.live:
            table_PV[rows[sid[:level]], sid[level]] = True
        tables.append((rows, table_PV))

    def allowed(level: int, prefixes_WL: torch.Tensor) -> torch.Tensor:
        rows, table_PV = tables[level]
        places = [rows.get(tuple(prefix), len(rows)) for prefix in prefixes_WL.tolist()]
        return table_PV[torch.tensor(places)]

    return _over_all_codes(task, allowed)


def trie_by_beam(task: Task) -> Way:
    """A Python trie that is asked beam by beam, as `prefix_allowed_tokens_fn` is: a list of codes
    fills a row of the mask.
    """
    trie = trie_of(task.live)
    codes = task.policy.generator.config.codes

    def allowed(_level: int, prefixes_WL: torch.Tensor) -> torch.Tensor:
        mask_WV = torch.zeros(len(prefixes_WL), codes, dtype=torch.bool)
        for row, prefix in zip(mask_WV, prefixes_WL.tolist(), strict=True):
            row[children_of(trie, prefix)] = True
        return mask_WV

    return _over_all_codes(task, allowed)


def brute_force(task: Task) -> Way:
    """Scores every live SID, teacher-forced in one pass, and takes the best."""
    sids_1SL = torch.tensor([task.live])

    def run() -> list[Sid]:
        scores_S = forced_scores(task, sids_1SL, ScoreSemantics.LEGAL).sum(dim=1)
        best = scores_S.topk(min(task.beams, len(task.live))).indices
        return [task.live[place] for place in best.tolist()]

    return run


def forced_scores(task: Task, sids_1SL: torch.Tensor, semantics: ScoreSemantics) -> torch.Tensor:
    """Returns the log-probs of all codes of the SIDs, [S, L]."""
    generator, index = task.policy.generator, task.policy.index
    states_1SLD = task.begin().states_of(sids_1SL)
    return sid_logprobs(states_1SLD, generator.head, index, sids_1SL, semantics)[0]


def kept_by_width(
    task: Task, semantics: ScoreSemantics, structure: Trie | None = None, live: Trie | None = None
) -> list[Sid]:
    """Returns what `beams` prefixes a level leave over: the reference of every beam search here.

    Dictionaries of all SIDs and of the live ones (made here if they are not at hand), a softmax
    written out in float64, a sort.
    """
    generator, index = task.policy.generator, task.policy.index
    structure = structure or trie_of([tuple(sid) for sid in index.sids.tolist()])
    device = generator.device

    def score(prefixes: list[Sid]) -> list[list[float]]:
        level = len(prefixes[0])
        forced_1WL = torch.tensor([[one_of(p) for p in prefixes]], device=device)
        states_WD = task.begin().states_of(forced_1WL)[0, :, level]
        weight_VD, bias_V = generator.head_weight_LVD[level], generator.head_bias_LV[level]
        logits_WV = F.linear(states_WD, weight_VD, bias_V).double().cpu()
        if semantics is ScoreSemantics.LEGAL:
            legal_WV = torch.zeros_like(logits_WV, dtype=torch.bool)
            for row, prefix in zip(legal_WV, prefixes, strict=True):
                row[children_of(structure, list(prefix))] = True
            logits_WV = logits_WV.where(legal_WV, -torch.inf)
        rows: list[list[float]] = logits_WV.log_softmax(dim=1).tolist()
        return rows

    def one_of(prefix: Sid) -> Sid:
        while len(prefix) < index.depth:
            prefix = (*prefix, children_of(structure, list(prefix))[0])
        return prefix

    return kept_of(live or trie_of(task.live), task.beams, index.depth, score)


def kept_of(
    live: Trie, beams: int, levels: int, score: Callable[[list[Sid]], list[list[float]]]
) -> list[Sid]:
    """Returns the best `beams` SIDs of the trie by falling score, equal ones by SID, when `beams`
    prefixes of each length are kept; `score` gives the log-probs of all codes behind prefixes.
    """
    kept: dict[Sid, float] = {(): 0.0}
    for _ in range(levels):
        totals = {
            (*prefix, code): total + row[code]
            for (prefix, total), row in zip(kept.items(), score(list(kept)), strict=True)
            for code in children_of(live, list(prefix))
        }
        best = sorted(totals, key=lambda prefix: (-totals[prefix], prefix))[:beams]
        kept = {prefix: totals[prefix] for prefix in best}
    return list(kept)


def trie_of(sids: list[Sid]) -> Trie:
    """Returns nested dictionaries, a level a code."""
    trie: Trie = {}
    for sid in sids:
        node = trie
        for code in sid:
            node = node.setdefault(code, {})
    return trie


def children_of(trie: Trie, prefix: list[int]) -> list[int]:
    """Returns the codes that may follow; none behind a prefix that no SID has."""
    node = trie
    for code in prefix:
        node = node.get(code, {})
    return list(node)


def _over_all_codes(task: Task, allowed: Callable[[int, torch.Tensor], torch.Tensor | None]) -> Way:
    """Returns a beam search over W * V candidates, `raw` scores; `allowed` gives a mask [W, V]."""
    head = task.policy.generator.head
    codes = head.bias_LV.shape[1]

    def run() -> list[Sid]:
        decoding = task.begin()
        states_WD = decoding.first_BD
        prefixes_WL = torch.zeros(1, 0, dtype=torch.int64)
        scores_W = torch.zeros(1)
        for level in range(len(head.weight_LVD)):
            logits_WV = F.linear(states_WD, head.weight_LVD[level], head.bias_LV[level])
            totals_WV = logits_WV.log_softmax(dim=1) + scores_W.unsqueeze(1)
            mask_WV = allowed(level, prefixes_WL)
            if mask_WV is not None:
                totals_WV = totals_WV.where(mask_WV, -torch.inf)
            flat_X = totals_WV.flatten()
            scores_W, chosen_W = flat_X.topk(min(task.beams, len(flat_X)))
            parents_W, codes_W = chosen_W // codes, chosen_W % codes
            prefixes_WL = torch.cat([prefixes_WL[parents_W], codes_W.unsqueeze(1)], dim=1)
            if level + 1 < len(head.weight_LVD):
                states_WD = decoding.advance(level, codes_W[None], parents_W[None])[0]
        return [tuple(sid) for sid in prefixes_WL[scores_W.isfinite()].tolist()]

    return run
