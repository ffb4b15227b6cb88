"""SIDs sampled without replacement, for rollouts and exploration: stochastic beam search (Kool, van
Hoof, Welling 2019, "Stochastic Beams and Where to Find Them", arXiv 1903.06059).

Each SID's log-prob plus Gumbel noise is its key; the `count` largest keys are a sample without
replacement. The keys are drawn from the top down: a prefix's key is the largest of the keys below
it, so the children's are drawn under the condition that their largest is the parent's, and the best
prefixes of each level are all that has to be kept.

The distribution q is the search's with masks: at each step a softmax over the children that may be
taken. It is the `legal` policy where nothing is masked; under masks it is renormalised step by
step, so a sample is never lost to a SID that must not be shown. q is the same for `legal` and
`raw`, which say only which log-probs are reported.

Legend: B requests, W samples, X children of all prefixes, K children of one, L levels.
"""

from dataclasses import dataclass

import torch

from models.decoding.beam_search import Beams, BeamStates, SearchResult
from models.decoding.item_index import ItemIndex
from models.decoding.legal import CodeHead, ScoreSemantics, root_logprobs
from models.decoding.masks import Masks

LN2 = 0.6931471805599453


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """SIDs by falling key, and what their inclusion probabilities need.

    `found` holds the policy's log-probs as a search does (`live_BW`: which entries are samples).
    `logprobs_BW` = log q; `keys_BW` = log q + noise; `threshold_B`: the largest key that was left
    out, -inf where every live SID is in the sample. All three float64.
    """

    found: SearchResult
    logprobs_BW: torch.Tensor
    keys_BW: torch.Tensor
    threshold_B: torch.Tensor

    @property
    def inclusion_BW(self) -> torch.Tensor:
        """P(key > threshold) = 1 - exp(-exp(log q - threshold)): the sum of `q f / inclusion` over
        a sample is an unbiased estimate of E_q[f].
        """
        return -torch.expm1(-torch.exp(self.logprobs_BW - self.threshold_B.unsqueeze(1)))


def sample_without_replacement(
    states: BeamStates,
    head: CodeHead,
    index: ItemIndex,
    masks: Masks,
    count: int,
    random: torch.Generator,
    semantics: ScoreSemantics = ScoreSemantics.LEGAL,
) -> Sample:
    """Returns min(`count`, live SIDs) distinct SIDs of every request, drawn with `random`."""
    reported_BP = root_logprobs(states.first_BD, head, index, semantics)
    logprobs_BX = _among(reported_BP, masks.empty_roots())
    root_B1 = _gumbel(logprobs_BX[:, :1], random)  # a fixed one would bias the threshold
    keys_BX = _keys(logprobs_BX, root_B1, random)
    chosen_BW = _largest(keys_BX, count + 1)  # the one behind the last is the threshold
    kept = Beams.first(reported_BP, chosen_BW)
    for level in range(1, index.depth):
        children = kept.children(states, head, index, semantics)
        below_BX = children.nodes_XK.flatten(1)
        empty_BWK = masks.empty(level, below_BX).view_as(children.nodes_XK)
        own_BWK = _among(children.logprobs_XK, empty_BWK)
        before_BW1 = logprobs_BX.gather(1, chosen_BW).unsqueeze(2)
        parent_BW1 = keys_BX.gather(1, chosen_BW).unsqueeze(2)
        logprobs_BX = (own_BWK + before_BW1).flatten(1)
        keys_BX = _keys(own_BWK + before_BW1, parent_BW1, random).flatten(1)
        chosen_BW = _largest(keys_BX, count + 1)
        kept = kept.follow(children, chosen_BW)
    return _sample(kept, logprobs_BX.gather(1, chosen_BW), keys_BX.gather(1, chosen_BW), count)


def _sample(kept: Beams, logprobs_BW: torch.Tensor, keys_BW: torch.Tensor, count: int) -> Sample:
    reported_BWL = kept.logprobs_BWL[:, :count]
    live_BW = keys_BW[:, :count].isfinite()
    missing = keys_BW.new_full((len(keys_BW),), -torch.inf)
    return Sample(
        found=SearchResult(
            leaves_BW=kept.nodes_BW[:, :count],
            logprobs_BWL=reported_BWL,
            scores_BW=reported_BWL.sum(dim=2).where(live_BW, -torch.inf),
        ),
        logprobs_BW=logprobs_BW[:, :count],
        keys_BW=keys_BW[:, :count],
        threshold_B=keys_BW[:, count] if keys_BW.shape[1] > count else missing,
    )


def _among(logprobs_XK: torch.Tensor, empty_XK: torch.Tensor) -> torch.Tensor:
    """Returns the log-probs of the children that may be taken, renormalised, float64; -inf for the
    others, also where no child may be taken.
    """
    open_XK = logprobs_XK.double().masked_fill(empty_XK, -torch.inf)
    total_X1 = open_XK.logsumexp(dim=-1, keepdim=True)
    return open_XK - total_X1.where(total_X1.isfinite(), 0.0)


def _keys(
    logprobs_XK: torch.Tensor, largest_X1: torch.Tensor, random: torch.Generator
) -> torch.Tensor:
    """Returns log-probs plus Gumbel noise, given that the largest of each row is `largest_X1`.

    In the form without overflow: with g unconditioned and z their largest,
    v = largest - g + log(1 - exp(g - z)), key = largest - max(0, v) - log(1 + exp(-|v|)).
    """
    free_XK = logprobs_XK + _gumbel(logprobs_XK, random)
    below_XK = free_XK - free_XK.amax(dim=-1, keepdim=True)
    v_XK = largest_X1 - free_XK + _log_one_minus_exp(below_XK)
    keys_XK = largest_X1 - v_XK.clamp(min=0) - v_XK.abs().neg().exp().log1p()
    return keys_XK.where(logprobs_XK.isfinite(), -torch.inf)


def _gumbel(like_X: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return torch.empty_like(like_X).exponential_(generator=random).log().neg()


def _log_one_minus_exp(x_X: torch.Tensor) -> torch.Tensor:
    """Returns log(1 - exp(x)) of x <= 0, in the form that keeps its digits on either side of
    -ln 2.
    """
    return torch.where(x_X > -LN2, (-torch.expm1(x_X)).log(), (-x_X.exp()).log1p())


def _largest(keys_BX: torch.Tensor, count: int) -> torch.Tensor:
    return keys_BX.topk(min(count, keys_BX.shape[1]), dim=1).indices
