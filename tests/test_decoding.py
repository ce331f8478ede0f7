"""The decoding rule against a float64 numpy statement of the paper's formula, and its invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aad_plugin.decoding import (
    IMPLAUSIBLE,
    aad_scores,
    aad_scores_of_candidates,
    check_alpha,
    eft_scores,
    guided_scores,
    guided_scores_of_candidates,
    likeliest_plausible,
    list_candidates,
    plausible_set,
    require_finite,
    token_advantage,
    weighted_reward,
)
from aad_plugin.errors import ConfigError, NonFiniteLogits, VocabMismatch

ROWS = hnp.arrays(np.float32, (3, 11), elements=st.floats(-30, 30, width=32))
ALPHAS = st.sampled_from([1e-6, 0.05, 0.1, 0.5, 0.999, 1.0])


def paper(policy: np.ndarray, reference: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """V_α and A(v) as the paper writes them, on probabilities in float64."""
    p, r = (np.exp(x - x.max(-1, keepdims=True)) for x in (policy.astype(np.float64), reference.astype(np.float64)))
    p, r = p / p.sum(-1, keepdims=True), r / r.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return p >= alpha * p.max(-1, keepdims=True), np.log(p) - np.log(r)


@settings(max_examples=200, deadline=None)
@given(policy=ROWS, reference=ROWS, alpha=ALPHAS)
def test_choice_is_the_papers_wherever_its_margin_exceeds_rounding(policy, reference, alpha):
    plausible, advantage = paper(policy, reference, alpha)
    scores = aad_scores(torch.tensor(policy), torch.tensor(reference), alpha).numpy()
    for row in range(len(policy)):
        ranked = np.sort(np.where(plausible[row], advantage[row], -np.inf))[::-1]
        log_p = policy[row].astype(np.float64)
        near_threshold = np.abs(log_p - log_p.max() - math.log(alpha))[log_p < log_p.max()].min(initial=np.inf)
        if ranked[0] - ranked[1] > 1e-4 and near_threshold > 1e-4:
            assert scores[row].argmax() == np.where(plausible[row], advantage[row], -np.inf).argmax()


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, reference=ROWS, alpha=ALPHAS)
def test_every_row_keeps_all_its_tokens_and_implausible_ones_stay_below(policy, reference, alpha):
    policy, reference = torch.tensor(policy), torch.tensor(reference)
    scores, plausible = aad_scores(policy, reference, alpha), plausible_set(policy, alpha)
    assert torch.isfinite(scores).all()
    assert plausible.any(-1).all()
    # 1e-6 · max is the widest set here: its lowest score is log(1e-6) = -13.8, far above the implausible ones' start.
    assert (scores[~plausible] <= IMPLAUSIBLE + 1e-3).all() or plausible.all()
    assert scores[plausible].min() >= math.log(alpha) - 1e-4


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, reference=ROWS)
def test_alpha_one_is_greedy(policy, reference):
    policy = torch.tensor(policy)
    chosen = aad_scores(policy, torch.tensor(reference), 1.0).argmax(-1)
    assert torch.equal(policy.gather(-1, chosen[:, None]).squeeze(-1), policy.amax(-1))


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, alpha=ALPHAS)
def test_identical_models_are_greedy(policy, alpha):
    policy = torch.tensor(policy)
    assert torch.equal(aad_scores(policy, policy.clone(), alpha).argmax(-1), policy.argmax(-1))


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, reference=ROWS, alpha=ALPHAS, shifts=st.tuples(st.integers(-64, 64), st.integers(-64, 64)))
def test_adding_a_constant_to_either_row_changes_nothing(policy, reference, alpha, shifts):
    # Multiples of 1/8 in a range of 2^8 stay exact in float32, so equality needs no tolerance.
    policy, reference = torch.tensor(policy).mul(8).round() / 8, torch.tensor(reference).mul(8).round() / 8
    moved = aad_scores(policy + shifts[0], reference + shifts[1], alpha)
    assert torch.equal(moved, aad_scores(policy, reference, alpha))


def test_hand_worked_row():
    # π_policy = (.5, .3, .15, .05), π_reference = (.5, .1, .05, .35); α = 0.2: threshold .1, so V = {0, 1, 2}.
    # A = (log 1, log 3, log 3): tokens 1 and 2 tie at 1.0986, the policy's favourite of them is 1.
    policy, reference = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log(), torch.tensor([[0.5, 0.1, 0.05, 0.35]]).log()
    assert plausible_set(policy, 0.2).tolist() == [[True, True, True, False]]
    advantage = token_advantage(policy, reference)[0]
    assert advantage[:3].tolist() == pytest.approx([0.0, math.log(3), math.log(3)], abs=1e-6)
    assert aad_scores(policy, reference, 0.2).argmax().item() == 1


def test_implausible_tokens_are_ordered_by_the_policy():
    policy = torch.tensor([[9.0, 1.0, 3.0, 2.0]])
    scores = aad_scores(policy, torch.zeros(1, 4), 0.5)[0]
    assert scores.argsort(descending=True).tolist() == [0, 2, 3, 1]


def test_scores_within_the_plausible_set_are_advantages_up_to_a_constant():
    torch.manual_seed(0)
    policy, reference = torch.randn(4, 50) * 3, torch.randn(4, 50) * 3
    plausible, advantage = plausible_set(policy, 0.01), token_advantage(policy, reference)
    difference = aad_scores(policy, reference, 0.01) - advantage
    for row in range(4):
        values = difference[row][plausible[row]]
        assert (values - values[0]).abs().max() < 1e-5


def test_eft_limits():
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 9), torch.randn(2, 9)
    assert torch.allclose(eft_scores(policy, reference, 0.0), reference)
    assert torch.allclose(eft_scores(policy, reference, 1.0), policy)
    # scale 2: reference + 2 (policy − reference) = 2 policy − reference
    assert torch.allclose(eft_scores(policy, reference, 2.0), 2 * policy - reference, atol=1e-6)


def test_bfloat16_rows_are_scored_in_float32():
    policy = torch.tensor([[20.0, 19.875, 3.0]], dtype=torch.bfloat16)
    assert aad_scores(policy, torch.zeros_like(policy), 0.1).dtype == torch.float32


@pytest.mark.parametrize("alpha", [0, -1.0, 1.0001, float("nan"), "much", None])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ConfigError, match=r"alpha must be (a number )?in \(0, 1\], got"):
        check_alpha(alpha)


def test_shapes_must_agree():
    with pytest.raises(VocabMismatch, match=r"\(1, 4\) and \(1, 5\)"):
        aad_scores(torch.zeros(1, 4), torch.zeros(1, 5), 0.1)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "inf"), (float("-inf"), "inf")])
def test_non_finite_logits_name_model_step_and_row(value, word):
    logits = torch.zeros(3, 1, 5)
    logits[2, 0, 1] = value
    with pytest.raises(NonFiniteLogits, match=f"the reference produced {word} logits at step 4 \\(row 2"):
        require_finite(logits, "reference", " at step 4")


@settings(deadline=None)
@given(ROWS, ROWS, ALPHAS)
def test_scores_of_candidates_are_the_scores_up_to_a_constant_per_row(policy, reference, alpha):
    policy, reference = torch.from_numpy(policy), torch.from_numpy(reference)
    found = list_candidates(policy, alpha)
    at = found.rows, found.tokens
    sparse = aad_scores_of_candidates(policy, found, alpha, policy[at], reference[at])
    whole = aad_scores(policy, reference, alpha)
    plausible = plausible_set(policy, alpha)
    # The two subtract different constants (an implausible token may be the reference's best), which can round a tie apart.
    chosen = whole.gather(-1, sparse.argmax(-1, keepdim=True))
    assert (whole.amax(-1, keepdim=True) - chosen <= 1e-4).all()
    for row in range(len(policy)):
        gaps = (sparse - whole)[row, plausible[row]]
        assert gaps.max() - gaps.min() < 1e-4  # float32 differences of numbers up to 60
        assert torch.allclose(sparse[row, ~plausible[row]], whole[row, ~plausible[row]])
        assert (sparse[row, plausible[row]] > IMPLAUSIBLE / 2).all()


def test_candidates_by_hand():
    # exp(-2) = 0.135 is above alpha = 0.1 of the best, exp(-3) = 0.05 is below.
    policy = torch.tensor([[5.0, 2.0, 3.0], [0.0, -9.0, -9.0]])
    found = list_candidates(policy, 0.1)
    assert (found.rows.tolist(), found.tokens.tolist(), found.columns.tolist()) == ([0, 0, 1], [0, 2, 0], [0, 1, 0])
    assert found.most == 2
    alone = aad_scores_of_candidates(policy[1:], list_candidates(policy[1:], 0.1), 0.1)
    assert alone.tolist() == [[0.0, IMPLAUSIBLE - 9, IMPLAUSIBLE - 9]]


@pytest.mark.parametrize("width", [1, 63, 64, 65, 200, 1000])
def test_candidates_are_the_plausible_set_in_order(width):
    policy = torch.randn(5, width, generator=torch.Generator().manual_seed(width)).mul(3)
    for logits in (policy, policy.bfloat16(), policy.repeat(1, 2)[:, :width]):
        found = list_candidates(logits, 0.05)
        rows, tokens = plausible_set(logits, 0.05).nonzero(as_tuple=True)
        assert torch.equal(found.rows, rows) and torch.equal(found.tokens, tokens)
        assert found.most == int(plausible_set(logits, 0.05).sum(-1).max())


# ------------------------------------------------------------------------------------------------ guides

SCALES = st.sampled_from([0.0, 0.5, 1.0, 3.0, 1e4])


def guided(policy: np.ndarray, guide: np.ndarray, reference: np.ndarray, scale: float, alpha: float) -> torch.Tensor:
    reward = weighted_reward(torch.tensor(guide), torch.tensor(reference), scale)
    return guided_scores(torch.tensor(policy), reward, alpha)


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, guide=ROWS, reference=ROWS, alpha=ALPHAS, scale=SCALES)
def test_guided_rows_keep_all_their_tokens_and_the_plausible_ones_stay_above(policy, guide, reference, alpha, scale):
    scores, plausible = guided(policy, guide, reference, scale, alpha), plausible_set(torch.tensor(policy), alpha)
    assert torch.isfinite(scores).all()
    inside, outside = scores.masked_fill(~plausible, torch.inf), scores.masked_fill(plausible, -torch.inf)
    # A token within rounding of the threshold may count as either.
    near = (torch.tensor(policy) - torch.tensor(policy).amax(-1, keepdim=True) - math.log(alpha)).abs() < 1e-4
    if alpha < 1 and not near.any():
        assert (inside.amin(-1) > outside.amax(-1)).all() and (inside >= 0).all()


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, guide=ROWS, reference=ROWS, alpha=ALPHAS)
def test_a_guide_without_weight_or_a_threshold_of_one_is_greedy(policy, guide, reference, alpha):
    best = torch.tensor(policy).amax(-1)
    for scale, threshold in ((0.0, alpha), (2.0, 1.0)):
        chosen = guided(policy, guide, reference, scale, threshold).argmax(-1)
        assert torch.equal(torch.tensor(policy).gather(-1, chosen[:, None]).squeeze(-1), best)


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, guide=ROWS, alpha=ALPHAS, scale=SCALES)
def test_a_guide_that_is_its_own_reference_is_greedy(policy, guide, alpha, scale):
    chosen = guided(policy, guide, guide, scale, alpha).argmax(-1)
    assert torch.equal(chosen, torch.tensor(policy).argmax(-1))


@settings(max_examples=100, deadline=None)
@given(policy=ROWS, guide=ROWS, reference=ROWS, alpha=ALPHAS, shifts=st.tuples(*[st.integers(-64, 64)] * 3))
def test_a_constant_along_any_row_changes_no_guided_choice(policy, guide, reference, alpha, shifts):
    rows = [np.round(row * 8) / 8 for row in (policy, guide, reference)]  # eighths: shifts stay exact
    before = guided(*rows, 2.0, alpha)
    after = guided(*(row + np.float32(shift) for row, shift in zip(rows, shifts, strict=True)), 2.0, alpha)
    assert torch.equal(before.argmax(-1), after.argmax(-1))


def test_several_guides_are_one_sum_and_a_worked_step():
    # log-probabilities up to a constant; alpha 0.1 keeps tokens 0 and 1 (ln 0.1 = -2.3), not 2.
    policy = torch.tensor([[0.0, -1.0, -5.0]])
    # Guide one: +3 for token 1 over its reference, weight 0.5 -> +1.5. Guide two: +1 for token 0, weight 1.
    one = weighted_reward(torch.tensor([[0.0, 3.0, 9.0]]), torch.zeros(1, 3), 0.5)
    two = weighted_reward(torch.tensor([[1.0, 0.0, 0.0]]), None, 1.0)
    # 0 + 0 + 1 = 1 against -1 + 1.5 + 0 = 0.5: token 0; without the second guide 0 against 0.5: token 1.
    assert guided_scores(policy, one + two, 0.1).argmax().item() == 0
    scores = guided_scores(policy, one, 0.1)
    assert scores.argmax().item() == 1
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0.5, IMPLAUSIBLE - 5]]), atol=1e-4, rtol=0)


def test_the_likeliest_plausible_tokens_are_at_most_k_and_hold_the_best():
    policy = torch.tensor([[0.0, -1.0, -2.0, -9.0], [0.0, -9.0, -9.0, -9.0]])
    tokens, inside = likeliest_plausible(policy, 0.1, 2)
    assert tokens[:, 0].tolist() == [0, 0] and tokens[0].tolist() == [0, 1]
    assert inside.tolist() == [[True, True], [True, False]]
    assert likeliest_plausible(policy, 0.1, 99)[1].sum(-1).tolist() == [3, 1]


def test_guides_of_another_vocabulary_are_refused():
    with pytest.raises(VocabMismatch, match="guide and its reference's logits must have one shape"):
        weighted_reward(torch.zeros(1, 3), torch.zeros(1, 4), 1.0)
    with pytest.raises(VocabMismatch, match="policy's and guides' logits"):
        guided_scores(torch.zeros(1, 3), torch.zeros(1, 4), 0.1)


@pytest.mark.parametrize("alpha", [0.1, 1e-3, 1.0])
def test_guided_scores_of_candidates_are_those_of_whole_rows(alpha):
    generator = torch.Generator().manual_seed(9)
    policy, reward = (4 * torch.randn(30, 200, generator=generator) for _ in range(2))
    candidates = list_candidates(policy, alpha)
    at = candidates.rows, candidates.tokens
    values = (policy[at], reward[at]) if candidates.most > 1 else (None, None)
    found = guided_scores_of_candidates(policy, candidates, alpha, *values)
    whole = guided_scores(policy, reward, alpha)
    inside = plausible_set(policy, alpha)
    assert torch.equal(found.argmax(-1), whole.argmax(-1))
    torch.testing.assert_close(found[~inside], whole[~inside], atol=1e-3, rtol=0)  # float32 at -1000
    if candidates.most > 1:
        torch.testing.assert_close(found[inside], whole[inside], atol=1e-4, rtol=0)
