"""A pair as the teacher of one model: what TRL's divergence reads of it, and the same scores as decoding's.

EFT's scores are linear in both models' hidden states, so its teacher is an ordinary wide model (`WideTeacher`): hidden =
[h_policy, h_reference] under head = [s · W_policy, (1 − s) · W_reference]. AAD's scores are not: its teacher is the pair
itself, softmax(advantage / temperature) within the plausible set and no mass outside (`aad_log_probs`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from aad_plugin.decoding import IMPLAUSIBLE, aad_scores, eft_scores
from aad_plugin.errors import ConfigError
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.step import whole_text

_BEYOND = -1e4  # logit of ids that only the student's head has
_CLOSE = 1e-3  # of the spread of a row of scores, in float32; 16-bit heads round coarser
_CLOSE_16_BIT = 5e-2


class _Body(nn.Module):
    """Both sides' last hidden states, side by side."""

    def __init__(self, pair: AlignedPair) -> None:
        super().__init__()
        self.pair = pair

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        """Return (B, T, H_policy + H_reference); padding is on the left, and positions are counted behind it."""
        found = []
        for role in ("policy", "reference"):
            with self.pair.sides.role(role) as model:
                body = getattr(model, model.base_model_prefix)
                device = next(body.parameters()).device
                ids, mask = input_ids.to(device), attention_mask.to(device)
                out = body(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False)
                found.append(out.last_hidden_state.to(input_ids.device))
        return BaseModelOutput(last_hidden_state=torch.cat(found, dim=-1))


class WideTeacher(PreTrainedModel):
    """Emulated fine-tuning as one wide model, whose logits are decoding's up to a constant per row.

    Args:
        pair: the pair. scale: EFT's. rows: of the student's head; ids beyond the pair's get no mass.
    Raises:
        ConfigError: the pair's logits are not its heads' (a soft cap, a scale, an adapted head).
    """

    config_class = PretrainedConfig
    base_model_prefix = "body"
    _supports_sdpa = _supports_flash_attn = True

    def __init__(self, pair: AlignedPair, scale: float, rows: int) -> None:
        super().__init__(PretrainedConfig(vocab_size=rows))
        self.body = _Body(pair)
        shared = min(pair.vocab_size, rows)
        parts, biases = [], []
        for role, factor in (("policy", scale), ("reference", 1 - scale)):
            with pair.sides.role(role) as model:
                head = model.get_output_embeddings()
                parts.append(head.weight.detach()[:shared].float() * factor)
                bias = getattr(head, "bias", None)
                biases.append(parts[-1].new_zeros(shared) if bias is None else bias.detach()[:shared].float() * factor)
        weight = torch.cat([part.to(parts[0].device) for part in parts], dim=-1)
        bias = biases[0] + biases[1].to(biases[0].device)
        self.head = nn.Linear(weight.shape[1], rows, device=weight.device)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.fill_(_BEYOND)
            self.head.weight[:shared], self.head.bias[:shared] = weight, bias
        self.to(pair.sides.policy.dtype)
        self.requires_grad_(False).eval()
        self._check(pair, scale, shared)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        """Return (B, T, rows) logits."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.head(self.body(input_ids, mask).last_hidden_state)

    @torch.no_grad()
    def _check(self, pair: AlignedPair, scale: float, shared: int) -> None:
        """Hold the wide model against decoding's own scores on a few ids."""
        ids = torch.arange(3, 15, device=pair.device)[None] % shared
        policy, reference = _rows(pair, ids, torch.ones_like(ids))
        wanted = eft_scores(policy, reference, scale)[..., :shared]
        found = self(ids)[..., :shared].float()
        apart = (found - wanted) - (found - wanted).mean(-1, keepdim=True)
        share = float(apart.abs().max() / wanted.std())
        bound = _CLOSE if pair.sides.policy.dtype == torch.float32 else _CLOSE_16_BIT
        if not share < bound:
            raise ConfigError(
                f"this pair's EFT is no one head over both hidden states: written so its scores differ by {share:.2g} of "
                "their spread (a soft cap, a scale of the logits or an adapted head): take --teacher aad"
            )


def positions_of(mask: Tensor) -> Tensor:
    """(B, T) positions behind left padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _rows(pair: AlignedPair, ids: Tensor, mask: Tensor, keep: int = 0) -> list[Tensor]:
    rows = pair.sides.logits(("policy", "reference"), whole_text(ids, mask, keep))
    return [row[..., : pair.vocab_size] for row in rows]


@torch.no_grad()
def teacher_scores(pair: AlignedPair, ids: Tensor, mask: Tensor, keep: int, alpha: float) -> Tensor:
    """Return AAD's scores of the last ``keep`` positions, the very ones that decoding ranks.

    Args:
        ids, mask: (B, T) int64, left-padded texts. alpha: plausibility threshold.
    Returns:
        (B, keep, V) float32.
    """
    with pair.sides.spare(pair.shortcuts):
        policy, reference = _rows(pair, ids.to(pair.device), mask.to(pair.device), keep)
    return aad_scores(policy, reference, alpha).to(ids.device)


def aad_log_probs(scores: Tensor, temperature: float) -> Tensor:
    """Return log softmax(advantage / temperature) over the plausible set, −inf outside.

    Args:
        scores: (…, V) of :func:`aad_plugin.decoding.aad_scores`. temperature: > 0; towards 0 it is AAD's own choice.
    """
    # Plausible scores are at least log(alpha); those outside start at IMPLAUSIBLE and fall.
    return (scores / temperature).masked_fill(scores <= IMPLAUSIBLE, -torch.inf).log_softmax(-1)


def divergence(teacher: Tensor, student: Tensor, beta: float) -> Tensor:
    """Return (…) generalised Jensen-Shannon divergence per position; 0 is forward KL(teacher ‖ student).

    Args:
        teacher: (…, V) log-probabilities, −inf where it gives no mass. student: (…, V), finite. beta: 0 <= beta < 1.
    Source: GKD, arXiv 2306.13649, eq. 1. Deviation: beta = 1 (reverse KL) does not exist for a teacher without mass.
    """
    p = teacher.exp()
    if beta == 0:
        return torch.where(p > 0, p * (teacher - student), 0.0).sum(-1)
    # mixture m = beta · teacher + (1 − beta) · student; beta · KL(teacher ‖ m) + (1 − beta) · KL(student ‖ m)
    log_beta, log_rest = torch.log(p.new_tensor(beta)), torch.log1p(-p.new_tensor(beta))
    mixture = torch.logaddexp(torch.where(p > 0, teacher, -1e4) + log_beta, student + log_rest)
    of_teacher = torch.where(p > 0, p * (teacher - mixture), 0.0).sum(-1)
    of_student = (student.exp() * (student - mixture)).sum(-1)
    return beta * of_teacher + (1 - beta) * of_student
