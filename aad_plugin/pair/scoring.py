"""The scores of one forward: which sides it reads, what it leaves out, and what it shows to the running call.

The rule is `decoding.py`'s, the reading is the sides' own. Knows nothing of hosts and their options.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from aad_plugin.decoding import (
    Candidates,
    aad_scores,
    aad_scores_of_candidates,
    eft_scores,
    list_candidates,
    plausible_set,
    require_finite,
    vcd_scores,
)
from aad_plugin.pair.call import Call
from aad_plugin.pair.distortion import Contrast, read_both
from aad_plugin.pair.guides import Guides
from aad_plugin.pair.reading import Plausible, Role, Sparing
from aad_plugin.pair.sides import Sides
from aad_plugin.pair.step import Step
from aad_plugin.settings import DecodingSettings

WHOLE = Sparing(candidates=False, lazy=False)


@dataclass(frozen=True)
class Scorer:
    """Who scores one forward.

    Attributes:
        sides: with the weights. guides: of strategy "guided". vocab_size: V, later columns are cut.
        settings: the strategy and its strength. call: the running ``generate`` call, None outside of one.
    """

    sides: Sides
    guides: Guides
    vocab_size: int
    settings: DecodingSettings
    call: Call | None

    def score(self, step: Step, sparing: Sparing) -> Tensor:
        """Return (B, K, V) scores of the next token, float32 or the logits' own dtype.

        Args:
            sparing: what a step of AAD within a call leaves out.
        Raises:
            NonFiniteLogits: a model produced NaN or ±inf; names the model and the step.
        """
        if self.call is not None and sparing.candidates:
            return self._of_candidates(self.call, step, sparing.lazy)
        roles = _roles(self.settings, self.guides)
        if self.call is not None and sparing.lazy and self.sides.can_wait and self.call.may_close():
            rows = self.sides.logits_as_needed(self._is_open, step)
        elif self.settings.strategy == "vcd":
            contrast = self.call.contrast if self.call is not None else Contrast()
            rows = read_both(self.sides, contrast.of(self.sides.policy, step, self.settings), step)
        else:
            rows = self.sides.logits(roles, step)
        rows = [self._cut(row) for row in rows]
        named = dict(zip(roles, rows, strict=False))  # a reference that was not asked is missing
        traced: dict[str, Tensor] = {}
        if self.settings.strategy == "guided":
            recorded = self.call is not None and self.call.recorder is not None
            scores, said = self.guides.score(self.settings, named, step, recorded)
            traced = {} if said is None else {"guide": said}
            self.sides.passes.update({reader.role: len(step.input_ids) for reader in self.guides.readers})
        else:
            # Where no row has a choice the reference decides nothing, and any logits will do for it.
            scores = _scores(self.settings, rows if len(rows) == len(roles) else [*rows, *rows])
            if self.settings.strategy == "vcd" and self.call is not None and self.call.recorder is not None:
                seeing, distorted = (row.float().log_softmax(-1) for row in rows)
                traced = {"guide": self.settings.cd_alpha * (seeing - distorted)}
        if self.call is not None:
            seen: dict[str, Tensor] = {role: row.flatten(0, 1) for role, row in named.items()}
            self.call.watch.show(seen, scores, self._place(self.call, step))
            if self.call.recorder is not None:
                self.call.recorder.show({**named, **traced}, scores, self.settings.strategy)
        return scores

    def _is_open(self, policy_logits: Tensor) -> bool:
        """Whether any of (B, K, V) rows has more than one plausible token; waits for the device."""
        assert self.call is not None
        rows = self._cut(policy_logits)
        found = int(plausible_set(rows, self.settings.alpha).sum()) > rows.shape[:-1].numel()
        self.call.note_open(found)
        return found

    def _of_candidates(self, call: Call, step: Step, lazy: bool) -> Tensor:
        """Return (B, K, V) scores, equal to the whole rows' up to a constant per row, from the plausible tokens alone."""
        alpha, batch = self.settings.alpha, len(step.input_ids)

        def find(logits: Tensor) -> Candidates:
            require_finite(logits, "policy", self._place(call, step))
            return list_candidates(self._cut(logits), alpha)

        found = self.sides.plausible(find, step, lazy, call.recorder is not None)
        if found.reference_values is not None:
            require_finite(found.reference_values[None], "reference", self._place(call, step))
        policy_logits = self._cut(found.policy_logits)  # (B · K, V)
        values = found.policy_values, found.reference_values
        scores = aad_scores_of_candidates(policy_logits, found.candidates, alpha, *values)
        scores = scores.view(batch, -1, self.vocab_size)  # (B · K, V) -> (B, K, V)
        if call.recorder is not None:
            favourites = policy_logits.argmax(-1).view(batch, -1)
            call.recorder.show(self._whole_rows(found, batch), scores, "aad", favourites)
        return scores

    def _whole_rows(self, found: Plausible, batch: int) -> dict[str, Tensor]:
        """Return role -> (B, K, V) float32 logits as the choice saw them; without the reference where it was not asked."""
        place = found.candidates.rows, found.candidates.tokens
        rows = {"policy": self._cut(found.policy_logits).float()}
        if found.policy_values is not None and found.reference_values is not None:
            assert found.reference_logits is not None
            rows["policy"] = rows["policy"].index_put(place, found.policy_values)
            reference = self._cut(found.reference_logits).float()
            rows["reference"] = reference.index_put(place, found.reference_values)
        return {role: row.view(batch, -1, self.vocab_size) for role, row in rows.items()}

    def _cut(self, logits: Tensor) -> Tensor:
        return logits[..., : self.vocab_size]

    def _place(self, call: Call, step: Step) -> str:
        return call.step(step.cache, step.input_ids.shape[1])


def _roles(settings: DecodingSettings, guides: Guides) -> tuple[Role, ...]:
    """The sides whose logits a step of these settings reads, the policy's first."""
    return guides.roles if settings.strategy == "guided" else settings.roles


def _scores(settings: DecodingSettings, rows: list[Tensor]) -> Tensor:
    if settings.strategy == "aad":
        return aad_scores(rows[0], rows[1], settings.alpha)
    if settings.strategy == "eft":
        return eft_scores(rows[0], rows[1], settings.eft_scale)
    if settings.strategy == "vcd":
        return vcd_scores(rows[0], rows[1], settings.cd_alpha, settings.cd_beta)
    return rows[0]
