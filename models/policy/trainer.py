"""The policy trainer: reward events in offset order in, optimiser steps out (ALGORITHMS 6).

Pure: no clock, no socket, no file. The same events give bitwise the same weights as long as torch
runs on one thread: steps are counted in used groups, never in time.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from models.policy.checkpoint import CheckpointManifest, TrainerState
from models.policy.config import PolicyConfig
from models.policy.group_batch import pad_groups
from models.policy.groups import DropReason, Group, form_group
from models.policy.logged_parity import logged_mismatches
from models.policy.optimizer_state import load_moments, moments_of, weights_sha256
from models.policy.sa_gcpo import LossTerms, step_loss
from models.policy.seen_requests import SeenRequests
from models.policy.served_version import Versions, score_groups
from models.policy.step_log import StepReport
from schemas.errors import OxygenRecError
from schemas.impressions import Impression
from schemas.rewards import RewardEvent

USED = "used"


class NonFiniteLoss(OxygenRecError):
    """A step whose loss is not a number: the weights stay as they were before it."""

    def __init__(self, *, step: int, request_ids: list[str]) -> None:
        self.step = step
        self.request_ids = request_ids
        super().__init__(
            f"step {step}: found a loss that is not finite on groups {', '.join(request_ids)}:"
            " look at their log-probs in `rewards`"
        )


class PolicyTrainer:
    """Learns from groups; `versions` finds the version that served a request."""

    def __init__(
        self,
        *,
        policy: nn.Module,
        reference: nn.Module,
        generation: int,
        versions: Versions,
        config: PolicyConfig,
    ) -> None:
        """Starts at offset 0 with `policy`'s weights; `reference` is the offline model.

        Both are put into eval mode: with dropout the log-probs would not be the served ones.
        """
        self.policy = policy.eval()
        self.generation = generation
        self.next_offset = 0
        self.steps = 0
        self.logprob_mismatch_max = 0.0
        self.counts: Counter[str] = Counter()  # by DropReason, and "used"
        self.last_mismatches: list[float] = []  # of the groups checked at the event offered last
        self.last_impressions: list[Impression] = []  # of the step done last
        self._reference = reference.eval()
        self._versions = versions
        self._config = config
        self._pending: list[Group] = []  # checked
        self._unchecked: list[Group] = []
        self._step_start = 0
        self._seen = SeenRequests(config.remembered_requests)
        self._optimizer = self._fresh_optimizer()

    def offer(self, offset: int, event: RewardEvent) -> StepReport | None:
        """Takes the next event of the log; returns the report of the step it completes, if any.

        Raises NonFiniteLoss.
        """
        self.next_offset = offset + 1
        self.last_mismatches = []
        group = self._admit(event)
        if isinstance(group, DropReason):
            self.counts[group.value] += 1
            return None
        self._unchecked.append(group)
        if len(self._pending) + len(self._unchecked) < self._config.groups_per_step:
            return None
        self._check()
        if len(self._pending) < self._config.groups_per_step:
            return None
        groups, self._pending = self._pending, []
        return self.step(groups)

    def step(self, groups: Sequence[Group]) -> StepReport:
        """Makes one AdamW step on used groups. Raises NonFiniteLoss."""
        groups = sorted(groups, key=_served_by)
        request_ids = [group.impression.request_id for group in groups]
        self._optimizer.zero_grad(set_to_none=True)
        terms = self._loss(groups)
        if not torch.isfinite(terms.loss):
            raise NonFiniteLoss(step=self.steps + 1, request_ids=request_ids)
        terms.loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self._config.max_gradient_norm)
        self._optimizer.step()
        self.steps += 1
        self.last_impressions = [group.impression for group in groups]
        start, self._step_start = self._step_start, self.next_offset
        return StepReport(
            step=self.steps,
            start_offset=start,
            next_offset=self.next_offset,
            request_ids=request_ids,
            loss=terms.loss.item(),
            objective=terms.objective.item(),
            kl=terms.kl.item(),
            observed_ce=terms.observed_ce.item(),
            gradient_norm=norm.item(),
            logprob_mismatch_max=self.logprob_mismatch_max,
            weights_sha256=weights_sha256(self.policy),
        )

    def go_on_at(self, offset: int, *, steps: int | None = None) -> None:
        """Moves to `offset`, without the groups gathered towards the next step.

        `steps` sets the count too, for a trainer that takes over a published version.
        """
        self._pending, self._unchecked = [], []
        self.next_offset = self._step_start = offset
        self.steps = self.steps if steps is None else steps

    def return_to(self, weights: nn.Module) -> None:
        """Takes other weights after a rejected publish, with fresh moments; offsets stay."""
        self.policy.load_state_dict(weights.state_dict())
        self._optimizer = self._fresh_optimizer()

    def state(self, *, epoch: int) -> TrainerState:
        """Returns all that a successor needs, as it is right after a step.

        Groups gathered since are left out: the successor reads them again.
        """
        return TrainerState(
            manifest=CheckpointManifest(
                step=self.steps,
                next_offset=self.next_offset,
                generation=self.generation,
                epoch=epoch,
                logprob_mismatch_max=self.logprob_mismatch_max,
                torch_version=str(torch.__version__),
            ),
            weights=self.policy.state_dict(),
            optimizer=moments_of(self._optimizer, self.policy),
            random_state=torch.get_rng_state(),
            request_ids=self._seen.to_tensor(),
        )

    def restore(self, state: TrainerState) -> None:
        """Becomes the trainer that `state` was taken from; reading goes on at `next_offset`."""
        self.policy.load_state_dict(state.weights)
        self._optimizer = self._fresh_optimizer()
        load_moments(self._optimizer, self.policy, state.optimizer)
        torch.set_rng_state(state.random_state)
        self._seen = SeenRequests.from_tensor(state.request_ids, self._config.remembered_requests)
        self.steps = state.manifest.step
        self.logprob_mismatch_max = state.manifest.logprob_mismatch_max
        self.go_on_at(state.manifest.next_offset)

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        # No decay: the pull is towards pi_ref (KL), not towards 0.
        trained = self.policy.parameters()
        return torch.optim.AdamW(trained, lr=self._config.learning_rate, weight_decay=0.0)

    def _admit(self, event: RewardEvent) -> Group | DropReason:
        if not self._seen.add(event.request_id):
            return DropReason.REPEATED
        impression = event.impression
        version = self._versions(impression.policy_version, impression.index_offset)
        group = form_group(
            event,
            generation=self.generation,
            sid_of=version.sid_of if version is not None else lambda _: None,
            max_experts=self._config.max_experts,
        )
        if isinstance(group, DropReason):
            return group
        if version is None:
            return DropReason.UNKNOWN_VERSION
        if not group.has_variance:
            return DropReason.ZERO_VARIANCE
        return group

    def _check(self) -> None:
        """Keeps the groups whose logged log-probs are those of the version that served them."""
        groups, self._unchecked = self._unchecked, []
        for group, mismatch in zip(groups, logged_mismatches(groups, self._versions), strict=True):
            if mismatch is None:
                self.counts[DropReason.UNKNOWN_SID.value] += 1
                continue
            self.last_mismatches.append(mismatch)
            if mismatch > self._config.max_logprob_mismatch:
                self.counts[DropReason.LOGPROB_MISMATCH.value] += 1
                continue
            self.counts[USED] += 1
            self.logprob_mismatch_max = max(self.logprob_mismatch_max, mismatch)
            self._pending.append(group)

    def _loss(self, groups: Sequence[Group]) -> LossTerms:
        batch = pad_groups(groups)
        logprobs_BGL = score_groups(self.policy, self._versions, groups, batch.sids_BGL)
        with torch.no_grad():
            reference_BGL = score_groups(self._reference, self._versions, groups, batch.sids_BGL)
        return step_loss(
            logprobs_BGL=logprobs_BGL,
            old_logprobs_BGL=batch.old_logprobs_or(logprobs_BGL),
            reference_BGL=reference_BGL,
            advantages_BG=batch.advantages_BG,
            gated_BG=batch.gated_BG,
            mask_BG=batch.mask_BG,
            liked_BG=batch.liked_BG,
            config=self._config,
        )


def _served_by(group: Group) -> tuple[int, int]:
    return group.impression.policy_version, group.impression.index_offset
