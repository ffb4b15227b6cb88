"""Hyper-parameters of policy learning (torch-free, so that settings can be read anywhere)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """SA-GCPO and its schedule: steps and publishes are counted in groups, never in time."""

    learning_rate: float = 1e-4  # for `tiny` (ALGORITHMS 6)
    tau_pos: float = 1.0
    tau_neg: float = 1.05  # negatives must decay at least as fast as positives [S]
    kl_weight: float = 0.02
    observed_ce_weight: float = 0.1
    max_experts: int = 4
    groups_per_step: int = 16
    steps_per_publish: int = 8
    max_gradient_norm: float = 1.0
    max_logprob_mismatch: float = 0.05  # above it the group is dropped (ALGORITHMS 5)
    publish_logprob_mismatch: float = 1e-3  # the probe's parity limit
    remembered_requests: int = 100_000
    seed: int = 0
