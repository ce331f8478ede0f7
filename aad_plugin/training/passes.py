"""The order of prompts in each pass over them: told by the seed and the number of the pass.

A run that goes on after a kill then reads the prompts in the order of an undisturbed one. TRL's own sampler (1.16) shuffles
every pass by one generator, which begins anew with the process.
"""

from __future__ import annotations

import random
from typing import Any

from trl.trainer.utils import RepeatSampler


class PassSampler(RepeatSampler):
    """TRL's sampler, whose order is told anew for each pass: by the seed in the first, as TRL's own, and later by seed and
    number of the pass together (their sum would be another seed's)."""

    def set_epoch(self, epoch: int) -> None:
        """Begin pass ``epoch``, from 0; called by transformers' trainer, which knows where it goes on."""
        if self.shuffle:
            seed = self.seed or 0
            self.generator.manual_seed(random.Random(f"{seed} {epoch}").getrandbits(32) if epoch else seed)


class KeepsOrder:
    """Mixed into a trainer of TRL that draws answers, before it."""

    def _get_train_sampler(self, dataset: Any = None) -> PassSampler:
        own = super()._get_train_sampler(dataset)  # type: ignore[misc]
        return PassSampler(
            own.data_source, own.mini_repeat_count, own.batch_size, own.repeat_count, own.shuffle, own.seed
        )
