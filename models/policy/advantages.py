"""Group advantages and the target-gated advantage of SA-GCPO.

Shapes: B groups of one step, G members (padded; `mask_BG` True where a member stands).
"""

import torch

STD_EPSILON = 1e-6  # zero-variance groups never come here: this only guards rounding


def group_advantages(rewards_BG: torch.Tensor, mask_BG: torch.Tensor) -> torch.Tensor:
    """Returns A = (R - mean) / (population std + 1e-6) over each group (OxygenREC eq. 9).

    Padding gets 0.
    """
    rewards_BG = rewards_BG.masked_fill(~mask_BG, 0.0)
    count_B1 = mask_BG.sum(dim=1, keepdim=True).clamp(min=1)
    mean_B1 = rewards_BG.sum(dim=1, keepdim=True) / count_B1
    centred_BG = (rewards_BG - mean_B1).masked_fill(~mask_BG, 0.0)
    std_B1 = (centred_BG.square().sum(dim=1, keepdim=True) / count_B1).sqrt()
    return centred_BG / (std_B1 + STD_EPSILON)


def gated_advantages(
    advantages_BG: torch.Tensor, rewards_BG: torch.Tensor, targets_B: torch.Tensor
) -> torch.Tensor:
    """Returns Gamma(A): 0 where A > 0 but the reward is below the target's, else A (eq. 8).

    `targets_B` is NaN for a group without a chosen item: its Gamma is A.
    """
    below_BG = rewards_BG < targets_B.unsqueeze(1)  # a comparison with NaN is False
    return torch.where((advantages_BG > 0) & below_BG, 0.0, advantages_BG)
