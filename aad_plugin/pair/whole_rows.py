"""What sides share that spare nothing: both give whole rows at every step, and plausible tokens are read off them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence

from torch import Tensor, nn
from transformers.cache_utils import Cache

from aad_plugin.pair.packed_products import PackedProducts
from aad_plugin.pair.reading import FindCandidates, Plausible, Role, Sparing


class WholeRows(nn.Module):
    """Sides read by plain forwards; the class sets ``passes`` and ``products`` and gives :meth:`logits`."""

    passes: Counter[str]
    products: PackedProducts
    gives_columns = gives_sums = False

    def auto(self, rows: int) -> Sparing:
        """What ``shortcuts=auto`` spares: nothing."""
        return Sparing(candidates=False, lazy=False)

    def spare(self, choice: str) -> contextlib.AbstractContextManager[None]:
        """Inside the block work is spared as ``choice`` of shortcuts says; see ``AlignedPair``."""
        return self.products.use(choice)

    def logits(
        self,
        roles: Sequence[Role],
        input_ids: Tensor,
        cache: Cache | None,
        logits_to_keep: int,
        **inputs: Tensor | None,
    ) -> list[Tensor]:
        """Return per role (B, K, V) logits."""
        raise NotImplementedError

    def plausible(
        self,
        find: FindCandidates,
        input_ids: Tensor,
        cache: Cache | None,
        keep: int,
        lazy: bool,
        whole: bool = False,
        **inputs: Tensor | None,
    ) -> Plausible:
        """Run one step; the candidates' logits are taken off whole rows."""
        rows = self.logits(("policy", "reference"), input_ids, cache, keep, **inputs)
        policy, reference = (row.flatten(0, 1) for row in rows)
        found = find(policy)
        place = found.rows.to(policy.device), found.tokens.to(policy.device)
        return Plausible(policy, found, policy[place].float(), reference[place].float(), reference)
