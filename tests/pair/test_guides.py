"""Guides against a naive loop that reads every model's whole text again at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from aad_plugin.decoding import aad_scores, eft_scores, guided_scores, weighted_reward
from aad_plugin.errors import ConfigError, NonFiniteLogits
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.guided_sides import WithGuides
from aad_plugin.pair.guides import Guides, TokenGuide
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.sides import Sides
from aad_plugin.speed.operations import per_step
from tests.toys import (
    EOS,
    PAD,
    VOCAB,
    Logits,
    NaiveRun,
    byte_tokenizer,
    compare,
    left_pad,
    model_logits,
    random_prompts,
    toy_model,
    with_adapters,
)

STEPS = 16
SCALES = (1.5, 0.5)


def naive_guided(
    policy: Logits,
    guides: Sequence[tuple[Logits, Logits | None, float]],
    prefix: list[int],
    alpha: float,
    steps: int = STEPS,
) -> NaiveRun:
    """The rule written down as it stands: no cache, no batch, float64; margins as in ``naive_aad``."""

    def log_softmax(logits: np.ndarray) -> np.ndarray:
        shifted = logits - logits.max()
        return shifted - np.log(np.exp(shifted).sum())

    run, prefix = NaiveRun(), list(prefix)
    for _ in range(steps):
        own = log_softmax(policy(prefix))
        score = own.copy()
        for guide, reference, scale in guides:
            score += scale * (log_softmax(guide(prefix)) - (0 if reference is None else log_softmax(reference(prefix))))
        threshold = np.log(alpha) + own.max()
        inside = np.where(own >= threshold, score, -np.inf)
        best = np.sort(inside)[::-1][:2]
        token = int(inside.argmax())
        run.tokens.append(token)
        run.margins.append(float(min(best[0] - best[1], np.abs(own - threshold).min())))
        run.candidates.append(int((own >= threshold).sum()))
        run.departures += token != int(own.argmax())
        prefix.append(token)
        if token == EOS:
            break
    return run


class Guided:
    """A pair with two guides, the first measured against a third model, and how the naive loop reads them."""

    def __init__(self, sides: Sides, roles: tuple[str, str, str], readers: dict[str, Logits]) -> None:
        first, measured, second = roles
        self.guides = Guides([TokenGuide(first, measured), TokenGuide(second)])
        self.pair = AlignedPair(sides, vocab_size=VOCAB, tokenizer=byte_tokenizer(), guides=self.guides)
        self.readers = readers
        self.naive = [(readers[first], readers[measured], SCALES[0]), (readers[second], None, SCALES[1])]


def checkpoints() -> Guided:
    models = {
        role: toy_model("llama", seed) for seed, role in enumerate(("policy", "reference", "guide1", "guide2"), 1)
    }
    # Another size and another kind of model, the same token ids.
    models |= {"guide1_reference": toy_model("qwen3", 9), "guide2": toy_model("gpt2", 8)}
    sides = Checkpoints(**models)
    return Guided(sides, ("guide1", "guide1_reference", "guide2"), {r: model_logits(m) for r, m in models.items()})


def one_base() -> Guided:
    model = with_adapters("llama", ("policy", "guide1", "guide2"))
    sides = OneBase(model, "policy", None, guide1="guide1", guide2="guide2")

    def read(role: str) -> Logits:
        def logits(prefix: list[int]) -> np.ndarray:
            with sides.role(role) as alone:
                return model_logits(alone)(prefix)

        return logits

    return Guided(sides, ("guide1", "reference", "guide2"), {role: read(role) for role in sides.roles})


def beside() -> Guided:
    """A shared base, one guide an adapter of it, the other a model of its own."""
    found = one_base()
    other = toy_model("gpt2", 8)
    sides = WithGuides(found.pair.sides, {"guide3": other})
    return Guided(sides, ("guide1", "reference", "guide3"), {**found.readers, "guide3": model_logits(other)})


KINDS: dict[str, Callable[[], Guided]] = {"checkpoints": checkpoints, "one base": one_base, "beside": beside}
OPTIONS = {"pad_token_id": PAD, "do_sample": False, "strategy": "guided", "guide_scale": SCALES, "alpha": 0.1}


@pytest.fixture(scope="module", params=KINDS)
def guided(request) -> Guided:
    return KINDS[request.param]()


def test_tokens_are_the_naive_loops_alone_and_in_a_padded_batch(guided):
    prompts = random_prompts([3, 9, 5, 12, 4, 7, 6, 8])
    runs = [naive_guided(guided.readers["policy"], guided.naive, prompt, 0.1) for prompt in prompts]
    assert sum(run.departures for run in runs) > 20, "the guides have to change something"

    def alone(prefix: list[int], steps: int) -> list[int]:
        ids = torch.tensor([prefix])
        return guided.pair.generate(ids, max_new_tokens=steps, **OPTIONS)[0, len(prefix) :].tolist()

    found = [compare(run, prompt, alone) for run, prompt in zip(runs[:2], prompts, strict=False)]
    ids, mask = left_pad(prompts)
    batch = guided.pair.generate(ids, attention_mask=mask, max_new_tokens=STEPS, **OPTIONS)[:, ids.shape[1] :].tolist()
    for row, (run, prompt) in enumerate(zip(runs, prompts, strict=True)):

        def decode(prefix: list[int], steps: int, row: int = row, prompt: list[int] = prompt) -> list[int]:
            return batch[row] if len(prefix) == len(prompt) else alone(prefix, steps)

        found.append(compare(run, prompt, decode))
    assert sum(one.excused for one in found) <= 1


def test_the_proof_covers_the_guides_and_finds_no_fault(guided):
    assert guided.pair.prove().avoided == ()


def test_no_scale_is_greedy_and_the_pair_decodes_as_before(guided):
    ids, mask = left_pad(random_prompts([5, 9]))
    call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": STEPS, "pad_token_id": PAD, "do_sample": False}
    greedy = guided.pair.generate(**call, strategy="greedy")
    assert torch.equal(guided.pair.generate(**call, strategy="guided", guide_scale=0.0), greedy)
    plain = AlignedPair(guided.pair.sides, vocab_size=VOCAB)
    assert torch.equal(guided.pair.generate(**call, strategy="aad"), plain.generate(**call, strategy="aad"))


@pytest.mark.parametrize("options", [
    {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}, {"prompt_lookup_num_tokens": 3},
], ids=str)  # fmt: skip
def test_other_features_give_the_plain_tokens(guided, options):
    prompts = [[65, 66, 67, 65, 66, 67, 65, 66]]
    ids, mask = left_pad(prompts)
    call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": STEPS, **OPTIONS}
    plain = guided.pair.generate(**call)
    found = guided.pair.generate(**call, **options)
    if "num_beams" in options:  # another search: the same one without a cache is what it has to equal
        plain = guided.pair.generate(**call, **options, use_cache=False)
    assert torch.equal(found, plain)


def test_a_guide_with_nan_is_named():
    found = checkpoints()
    with torch.no_grad():
        found.pair.sides.models()["guide2"].get_output_embeddings().weight[3] = torch.nan
    with pytest.raises(NonFiniteLogits, match="guide2"):
        found.pair.generate(torch.tensor([[1, 2]]), max_new_tokens=2, **OPTIONS)


def test_weights_have_to_match_the_guides():
    found = checkpoints()
    with pytest.raises(ConfigError, match="guide_scale has 3 weights for 2 guides"):
        found.pair.generate(torch.tensor([[1]]), strategy="guided", guide_scale=(1, 2, 3))
    plain = AlignedPair(found.pair.sides, vocab_size=VOCAB)
    with pytest.raises(ConfigError, match="strategy='guided' needs a guide"):
        plain.generate(torch.tensor([[1]]), strategy="guided")


def test_guides_of_one_base_cost_few_operations_a_step():
    """More rows of the same forward, and a handful of operations on rows of logits for each guide."""
    ids, mask = left_pad(random_prompts([5, 9]))

    def counted(pair: AlignedPair, strategy: str) -> float:
        options = {"attention_mask": mask, "pad_token_id": PAD, "do_sample": False, "eos_token_id": None}
        return per_step(lambda steps: pair.generate(ids, strategy=strategy, max_new_tokens=steps, **options)).operations

    pair = one_base().pair
    pair.shortcuts = "none"
    assert counted(pair, "guided") <= counted(pair, "aad") + 30


# ---------------------------------------------------------------------------------------------- identities


def test_a_guide_that_is_the_policy_over_the_reference_is_eft():
    """policy = R, guide = P, guide_reference = R, every token plausible."""
    policy, reference = toy_model("llama", 1), toy_model("llama", 2)
    swapped = AlignedPair(
        Checkpoints(reference, policy), vocab_size=VOCAB, guides=Guides([TokenGuide("reference", "policy")])
    )
    plain = AlignedPair(Checkpoints(policy, reference), vocab_size=VOCAB)
    ids, mask = left_pad(random_prompts([5, 9, 4]))
    call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": STEPS, "pad_token_id": PAD, "do_sample": False}
    for scale in (0.5, 1.5, 3.0):
        guided = swapped.generate(**call, strategy="guided", guide_scale=scale, alpha=1e-30)
        assert torch.equal(guided, plain.generate(**call, strategy="eft", eft_scale=scale))


def test_a_huge_scale_on_the_pairs_own_advantage_is_aad():
    """policy = P, guide = P, guide_reference = R, guide_scale 1e4, in float64."""
    generator = torch.Generator().manual_seed(3)
    policy, reference = (3 * torch.randn(400, 60, generator=generator, dtype=torch.float64) for _ in range(2))
    aad = aad_scores(policy, reference, 0.1).argmax(-1)
    scores = guided_scores(policy, weighted_reward(policy, reference, 1e4), 0.1)
    assert scores.dtype == torch.float64
    assert (scores.argmax(-1) == aad).sum() >= 399  # two advantages within 2.3e-4 nats may fall either way
    models = toy_model("llama", 1).double(), toy_model("llama", 2).double()
    pair = AlignedPair(Checkpoints(*models), vocab_size=VOCAB, guides=Guides([TokenGuide("policy", "reference")]))
    ids, mask = left_pad(random_prompts([5, 9, 4]))
    call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": STEPS, "pad_token_id": PAD, "do_sample": False}
    guided = pair.generate(**call, strategy="guided", guide_scale=1e4)
    assert torch.equal(guided, pair.generate(**call, strategy="aad"))


def test_eft_and_guided_scores_agree_up_to_a_constant():
    generator = torch.Generator().manual_seed(4)
    policy, reference = (3 * torch.randn(50, 40, generator=generator) for _ in range(2))
    guided = guided_scores(reference, weighted_reward(policy, reference, 2.0), 1e-30)
    apart = guided - eft_scores(policy, reference, 2.0)
    torch.testing.assert_close(apart - apart.mean(-1, keepdim=True), torch.zeros_like(apart), atol=1e-4, rtol=0)
