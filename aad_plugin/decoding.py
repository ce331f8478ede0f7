"""The decoding rule: pure functions from two rows of logits to one row of scores.

Owns the mathematics of alignment-aware decoding (AAD), emulated fine-tuning (EFT), guides and visual contrastive
decoding (VCD). Knows nothing of models, caches, hosts or files; every host, the explainer and the tests call these
functions.

    V_α  = { v : π_policy(v) >= α · max π_policy }         plausible set
    A(v) = log π_policy(v) − log π_reference(v)            token advantage
    next = argmax over V_α of A(v)                         AAD
    next = argmax over V_α of log π_policy(v) + R(v)       guided, R a weighted sum of what guides say

Axes: B batch (any leading axes), V vocabulary.
Source: Alignment-Aware Decoding, arXiv 2509.26169; the plausible set is contrastive decoding's (arXiv 2210.15097).

Run: python -m pytest tests/test_decoding.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aad_plugin.errors import ConfigError, NonFiniteLogits, VocabMismatch

# Scores of implausible tokens start here. exp(-1000) is 0 in float32, so they are never sampled, and the step to the
# next float32 at -1000 is 6e-5, so the policy's order among them survives. Plausible scores are >= log(alpha).
IMPLAUSIBLE = -1000.0
# Tokens per block when plausible ones are searched: measured on CPU, 32 rows of 49,152 take 0.3 ms instead of 1.3.
_BLOCK = 64


def check_alpha(alpha: float) -> float:
    """Return ``alpha`` as a float in (0, 1].

    Raises:
        ConfigError: ``alpha`` is not a number in (0, 1].
    """
    try:
        value = float(alpha)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"alpha must be a number in (0, 1], got {alpha!r} (for example alpha=0.1)") from e
    if not 0.0 < value <= 1.0:
        raise ConfigError(f"alpha must be in (0, 1], got {alpha} (for example alpha=0.1; alpha=1 is greedy)")
    return value


def require_finite(logits: Tensor, owner: str, step: str = "") -> None:
    """Raise unless every logit is finite. One reduction; waits for the device.

    Args:
        logits: (..., V), any float dtype.
        owner: "policy" or "reference", named in the error.
        step: where decoding stands, appended to the error, for example ``" at step 3"``.
    Raises:
        NonFiniteLogits: NaN or ±inf in ``logits``; names the owner, the step and the first row.
    """
    # A sum is finite only if all its terms are; float32 keeps bf16 rows from overflowing.
    if torch.isfinite(logits.sum(dtype=torch.float32)):
        return
    bad = ~torch.isfinite(logits)
    if not bad.any():
        return
    row, kind = bad.flatten(0, -2).any(-1).nonzero()[0].item(), "NaN" if logits.isnan().any() else "inf"
    raise NonFiniteLogits(
        f"the {owner} produced {kind} logits{step} (row {row}, {int(bad.sum())} of {logits.numel()} values): "
        "check its weights and try dtype=float32"
    )


def plausible_set(policy_logits: Tensor, alpha: float) -> Tensor:
    """Mark the tokens the policy finds plausible: π_policy(v) >= alpha · max π_policy.

    Args:
        policy_logits: (..., V) raw or shifted by a constant per row.
        alpha: threshold relative to the policy's best token; no unit; 0 < alpha <= 1; 1 keeps only the best.
    Returns:
        (..., V) bool; every row has at least one True.
    Raises:
        ConfigError: alpha outside (0, 1].
    """
    return policy_logits >= _threshold(policy_logits, alpha)


def token_advantage(policy_logits: Tensor, reference_logits: Tensor) -> Tensor:
    """Return A(v) = log π_policy(v) − log π_reference(v).

    Args:
        policy_logits: (..., V) raw, before temperature.
        reference_logits: (..., V), same shape, device and token ids.
    Returns:
        (..., V) float32, nats.
    Raises:
        VocabMismatch: the shapes differ.
    """
    _check_shapes(policy_logits, reference_logits)
    return policy_logits.float().log_softmax(-1) - reference_logits.float().log_softmax(-1)


def aad_scores(policy_logits: Tensor, reference_logits: Tensor, alpha: float) -> Tensor:
    """Score the next token by alignment-aware decoding; the argmax of a row is AAD's choice.

    1. Shift both rows by their own maximum (constants cancel in the ranking, so no log-softmax is needed).
    2. Plausible tokens score policy − reference, which is at least log(alpha).
    3. Implausible tokens keep a finite score below every plausible one, ordered by the policy, because a later stage
       (a grammar, banned words, a minimum length) may remove the whole plausible set.
    4. Among plausible tokens that share the best score, the policy's favourite is raised by one float32 step.

    Args:
        policy_logits: (..., V) raw, before temperature.
        reference_logits: (..., V), same shape, device and token ids.
        alpha: see :func:`plausible_set`.
    Returns:
        (..., V) float32, finite for finite inputs; within V_α equal to :func:`token_advantage` up to a row constant.
    Raises:
        ConfigError: alpha is not in (0, 1].
        VocabMismatch: the shapes differ.
    Source: arXiv 2509.26169, section on the method. Deviation: none in the choice; ties are undefined there.
    """
    _check_shapes(policy_logits, reference_logits)
    return aad_scores_above(policy_logits, reference_logits, math.log(check_alpha(alpha)))


def aad_scores_above(policy_logits: Tensor, reference_logits: Tensor, threshold: Tensor | float) -> Tensor:
    """Return :func:`aad_scores` for a threshold of any host: nothing is checked, and it may be compiled.

    Args:
        threshold: log(alpha), a number or a float32 tensor that broadcasts against (..., 1).
    """
    policy = policy_logits.float()
    policy = policy - policy.amax(-1, keepdim=True)
    reference = reference_logits.float()
    reference = reference - reference.amax(-1, keepdim=True)
    # Few operations: on a GPU each of them costs a launch, whatever its size.
    scores = policy - reference.where(policy >= threshold, -IMPLAUSIBLE)
    best = scores.amax(-1, keepdim=True)
    raised = torch.nextafter(best, best + 1)
    favourite = policy.masked_fill(scores < best, -torch.inf)
    if torch.compiler.is_compiling():
        # Compiled, the largest value of a row is every block's work, its place one block's. Equals are raised together.
        return torch.where(favourite == favourite.amax(-1, keepdim=True), raised, scores)
    return scores.scatter_(-1, favourite.argmax(-1, keepdim=True), raised)


@dataclass(frozen=True)
class Candidates:
    """The plausible set of every row as one list, for hosts that look at nothing else of the reference.

    Attributes:
        rows, tokens: (N,) int64, row by row. columns: (N,) int64, position within the row's own candidates, from 0.
        most: the largest number of candidates of a row; 1 = no row has a choice and the reference decides nothing.
    """

    rows: Tensor
    tokens: Tensor
    columns: Tensor
    most: int


def list_candidates(policy_logits: Tensor, alpha: float) -> Candidates:
    """List :func:`plausible_set` of (R, V) raw policy logits; waits for the device.

    Most tokens are far from plausible, so only those are compared whose block of tokens has a plausible maximum.
    """
    width = policy_logits.shape[-1] // _BLOCK
    # Block c holds the tokens c, c + width, c + 2 · width …: its maximum is read along contiguous memory.
    blocks = policy_logits[:, : width * _BLOCK].unflatten(-1, (_BLOCK, width))
    highest = torch.cat([blocks.amax(1), policy_logits[:, width * _BLOCK :]], dim=-1)
    threshold = _threshold(highest, alpha)
    rows, block = (highest >= threshold).nonzero(as_tuple=True)
    whole = block < width
    inner, place = (blocks[rows[whole], :, block[whole]] >= threshold[rows[whole]]).nonzero(as_tuple=True)
    tokens = torch.cat([place * width + block[whole][inner], block[~whole] + width * (_BLOCK - 1)])
    rows = torch.cat([rows[whole][inner], rows[~whole]])
    order = (rows * policy_logits.shape[-1] + tokens).argsort()
    rows, tokens = rows[order], tokens[order]
    counts = torch.bincount(rows, minlength=len(policy_logits))
    first = counts.cumsum(0) - counts
    columns = torch.arange(len(rows), device=rows.device) - first[rows]
    return Candidates(rows, tokens, columns, int(counts.max()))


def aad_scores_of_candidates(
    policy_logits: Tensor,
    candidates: Candidates,
    alpha: float,
    policy_values: Tensor | None = None,
    reference_values: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return what :func:`aad_scores` returns, up to a constant per row, from the candidates' logits alone.

    Args:
        policy_logits: (R, V) raw, before temperature.
        candidates: of these rows, :func:`list_candidates`.
        alpha: see :func:`plausible_set`.
        policy_values, reference_values: (N,) float32, logits of the candidates, possibly more exact than
            ``policy_logits``; None where no row has a choice.
        out: (R, V) float32, memory for the scores.
    Returns:
        (R, V) float32 scores.
    """
    return _among(candidates, policy_logits, policy_values, reference_values, out, partial(aad_scores, alpha=alpha))


def _among(
    candidates: Candidates,
    policy_logits: Tensor,
    policy_values: Tensor | None,
    other_values: Tensor | None,
    out: Tensor | None,
    score: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return (R, V) scores: the candidates' by a rule of whole rows over theirs alone, below them the implausible ones."""
    scores = _implausible(policy_logits, out)
    place = candidates.rows, candidates.tokens
    if policy_values is None or other_values is None:  # no row has a choice
        return scores.index_put_(place, scores.new_zeros(()))
    block = _block(candidates, policy_values, len(scores), -torch.inf)
    other = _block(candidates, other_values, len(scores), 0.0)
    return scores.index_put_(place, score(block, other)[candidates.rows, candidates.columns])


def _implausible(policy_logits: Tensor, out: Tensor | None) -> Tensor:
    """Return (R, V) float32, every token's score as if it were implausible."""
    best = policy_logits.amax(-1, keepdim=True).float()
    return torch.sub(policy_logits, best - IMPLAUSIBLE, out=out)


def _block(candidates: Candidates, values: Tensor, rows: int, empty: float) -> Tensor:
    """Return (rows, most), every row's candidates' (N,) values side by side, ``empty`` where a row has fewer."""
    block = values.new_full((rows, candidates.most), empty)
    return block.index_put_((candidates.rows, candidates.columns), values)


def eft_scores(policy_logits: Tensor, reference_logits: Tensor, eft_scale: Tensor | float) -> Tensor:
    """Score the next token by emulated fine-tuning: log π_reference + eft_scale · (log π_policy − log π_reference).

    Args:
        policy_logits: (..., V) raw, before temperature.
        reference_logits: (..., V), same shape, device and token ids.
        eft_scale: strength of the tuning, a number or a float32 scalar; no unit; 1 is the policy itself, above 1
            extrapolates, 0 is the reference.
    Returns:
        (..., V) float32; up to a row constant the log-probabilities of the emulated model.
    Raises:
        VocabMismatch: the shapes differ.
    Source: An Emulator for Fine-Tuning Large Language Models using Small Language Models, arXiv 2310.12962.
    """
    _check_shapes(policy_logits, reference_logits)
    reference = reference_logits.float()
    return torch.lerp(reference, policy_logits.float(), eft_scale)


def weighted_reward(guide_logits: Tensor, reference_logits: Tensor | None, scale: float) -> Tensor:
    """Return one guide's part of R: scale · (log g − log g_reference), up to a constant per row.

    Args:
        guide_logits: (..., V) raw. reference_logits: likewise, of what the guide was tuned from; None for a guide whose
            own log-probability is the reward, as an autoregressive reward model's.
        scale: weight; no unit; at least 0, finite.
    Returns:
        (..., V) float32, or float64 of float64 logits; the best token of each of the two rows counts as 0.
    Raises:
        VocabMismatch: the shapes differ.
    """
    reward = _shifted(guide_logits)
    if reference_logits is not None:
        _check_shapes(guide_logits, reference_logits, "guide and its reference's")
        reward = reward - _shifted(reference_logits)
    return reward * scale


def guided_scores(policy_logits: Tensor, reward: Tensor, alpha: float, plausible: Tensor | None = None) -> Tensor:
    """Score the next token by the policy and its guides; the argmax of a row is the choice.

    1. Plausible tokens score log π_policy + R, shifted so that the lowest of them stands at 0: a large scale may not push
       one below the floor of the others.
    2. Implausible tokens keep the finite scores that :func:`aad_scores` gives them, ordered by the policy.
    3. Among plausible tokens that share the best score, the policy's favourite is raised by one step of the dtype.

    GenARM (arXiv 2410.08193) is a guide without a reference; emulated fine-tuning by a small pair (arXiv 2310.12962) and
    proxy-tuning (arXiv 2401.08565) are a guide with one; ARGS (arXiv 2402.01694) is a reward at each candidate.

    Args:
        policy_logits: (..., V) raw, before temperature.
        reward: (..., V), the sum of the guides' :func:`weighted_reward` or of other rewards, up to a constant per row.
        alpha: see :func:`plausible_set`. Deviation: the works above rank the whole vocabulary, or its first k.
        plausible: (..., V) bool, where fewer tokens than :func:`plausible_set` are to count; each row holds at least one.
    Returns:
        (..., V) float32, or float64 of float64 logits and rewards; finite for finite inputs.
    Raises:
        ConfigError: alpha is not in (0, 1].
        VocabMismatch: the shapes differ.
    """
    _check_shapes(policy_logits, reward, "policy's and guides'")
    policy = _shifted(policy_logits)
    inside = policy >= math.log(check_alpha(alpha)) if plausible is None else plausible
    sums = policy + reward
    lowest = sums.masked_fill(~inside, torch.inf).amin(-1, keepdim=True)
    scores = torch.where(inside, sums - lowest, policy + IMPLAUSIBLE)
    best = scores.amax(-1, keepdim=True)
    favourite = policy.masked_fill(scores < best, -torch.inf).argmax(-1, keepdim=True)
    return scores.scatter(-1, favourite, torch.nextafter(best, best + 1))


def guided_scores_of_candidates(
    policy_logits: Tensor,
    candidates: Candidates,
    alpha: float,
    policy_values: Tensor | None = None,
    reward_values: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return what :func:`guided_scores` returns, up to a constant per row, from the candidates' logits and rewards alone.

    Args:
        policy_logits: (R, V) raw, before temperature.
        candidates: of these rows, :func:`list_candidates`.
        alpha: see :func:`plausible_set`.
        policy_values, reward_values: (N,) float32, logits and rewards of the candidates; None where no row has a choice.
        out: (R, V) float32, memory for the scores.
    Returns:
        (R, V) float32 scores.
    """
    return _among(candidates, policy_logits, policy_values, reward_values, out, partial(guided_scores, alpha=alpha))


def vcd_scores(policy_logits: Tensor, distorted_logits: Tensor, cd_alpha: float, cd_beta: float) -> Tensor:
    """Score the next token by visual contrastive decoding: (1 + cd_alpha) · l(v) − cd_alpha · l(v') on plausible tokens.

    That is :func:`guided_scores` whose one guide is the policy itself, measured against what it says of the distorted
    picture: a row's choice, its invariants and its finite floor are those.

    Args:
        policy_logits: (..., V) raw, of the policy that sees the pictures v.
        distorted_logits: (..., V) raw, of the same policy and prompt with the distorted pictures v'.
        cd_alpha: weight of the contrast, at least 0; no unit; 0 is greedy.
        cd_beta: plausibility threshold relative to the policy's best token, 0 < cd_beta <= 1; 1 is greedy.
    Returns:
        (..., V) float32, or float64 of float64 logits; within the plausible set equal to the formula up to a constant.
    Raises:
        ConfigError: cd_beta is not in (0, 1]. VocabMismatch: the shapes differ.
    Source: arXiv 2311.16922, equations 3 and 4; the set is compared on logits as in its code. Deviation: implausible tokens
        keep a finite floor (there −inf), and the choice is the argmax (there a draw).
    """
    return guided_scores(policy_logits, weighted_reward(policy_logits, distorted_logits, cd_alpha), cd_beta)


def likeliest_plausible(policy_logits: Tensor, alpha: float, most: int) -> tuple[Tensor, Tensor]:
    """Return the plausible tokens of each row, at most ``most``, the policy's likeliest first.

    Args:
        policy_logits: (R, V) raw. alpha: see :func:`plausible_set`. most: at least 1.
    Returns:
        tokens (R, K) int64, and which of them are plausible (R, K) bool; the first of a row always is. Waits for the
        device.
    """
    policy = _shifted(policy_logits)
    values, tokens = policy.topk(min(most, policy.shape[-1]), dim=-1)
    inside = values >= math.log(check_alpha(alpha))
    width = int(inside.sum(-1).max())
    return tokens[:, :width], inside[:, :width]


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return (…, N) float32 log-probabilities, nats, of (…, N) int64 token ids under (…, V) raw logits."""
    logits = logits.float()
    return logits.gather(-1, tokens) - logits.logsumexp(-1, keepdim=True)


def _shifted(logits: Tensor) -> Tensor:
    """Return rows whose best token stands at 0; 16-bit ones in float32."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide - wide.amax(-1, keepdim=True)


def _threshold(policy_logits: Tensor, alpha: float) -> Tensor:
    """Return (…, 1), the lowest logit that is plausible, in the logits' dtype; any rows that hold the best one will do."""
    return policy_logits.amax(-1, keepdim=True) + math.log(check_alpha(alpha))


def _check_shapes(policy_logits: Tensor, reference_logits: Tensor, whose: str = "policy and reference") -> None:
    if policy_logits.shape != reference_logits.shape:
        raise VocabMismatch(
            f"{whose} logits must have one shape, got {tuple(policy_logits.shape)} and "
            f"{tuple(reference_logits.shape)}: cut both to the shared vocabulary first"
        )
