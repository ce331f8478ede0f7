"""Token-for-token equality with a naive loop that re-reads the whole prefix with both models at every step, whatever
the pair leaves out of the reference's work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aad_plugin.sources.known_options import SHORTCUTS
from tests.pairs import KINDS, toy_pair
from tests.toys import EOS, PAD, NaiveRun, compare, left_pad, naive_aad, random_prompts

STEPS = 64
LENGTHS = [3, 17, 9, 24, 12, 5, 30, 20]
FULL_GRID = [
    (arch, kind, alpha) for arch in ("llama", "qwen3", "gpt2") for kind in KINDS for alpha in (0.05, 0.1, 0.5, 1.0)
]
QUICK = [case for case in FULL_GRID if case[2] == 0.1 or case[:2] == ("llama", "reference_plus_lora")]


def check_case(arch: str, kind: str, alpha: float, prompts: list[list[int]]) -> list[NaiveRun]:
    toy = toy_pair(kind, arch)
    options = dict(alpha=alpha, pad_token_id=PAD, eos_token_id=EOS)

    def decode_one(prefix: list[int], steps: int) -> list[int]:
        out = toy.pair.generate(input_ids=torch.tensor([prefix]), max_new_tokens=steps, **options)
        return out[0, len(prefix) :].tolist()

    runs = [naive_aad(toy.policy, toy.reference, prompt, STEPS, alpha, EOS) for prompt in prompts]
    ids, mask = left_pad(prompts)
    steps = excused = 0
    for shortcuts in SHORTCUTS[1:]:  # "auto" is one of the others
        toy.pair.shortcuts = shortcuts
        batch = toy.pair.generate(input_ids=ids, attention_mask=mask, max_new_tokens=STEPS, **options)[
            :, ids.shape[1] :
        ].tolist()
        for run, prompt, row in zip(runs, prompts, batch, strict=True):
            # The batch's row counts as the decoder from the prompt itself; continuations after an excuse run alone.
            def from_batch(prefix, count, row=row, prompt=prompt):
                return row[:count] if prefix == prompt else decode_one(prefix, count)

            for decode in (decode_one, from_batch):
                result = compare(run, prompt, decode)
                steps, excused = steps + result.steps, excused + result.excused
    assert excused <= 0.01 * steps, f"{excused} of {steps} steps excused"
    print(f"{arch} {kind} alpha={alpha}: {steps} steps equal, {excused} excused")
    return runs


@pytest.mark.parametrize(("arch", "kind", "alpha"), QUICK)
def test_quick(arch, kind, alpha):
    runs = check_case(arch, kind, alpha, random_prompts(LENGTHS[:2]))
    assert sum(run.departures for run in runs) > 0 or alpha == 1.0


@pytest.mark.grid
@pytest.mark.parametrize(("arch", "kind", "alpha"), FULL_GRID)
def test_full_grid(arch, kind, alpha):
    check_case(arch, kind, alpha, random_prompts(LENGTHS))


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2"])
def test_the_filter_matters_on_these_toys(arch):
    """With default initialisation a decoder that ignores alpha would pass the tests above."""
    toy = toy_pair("two_models", arch)
    runs = [naive_aad(toy.policy, toy.reference, prompt, STEPS, 0.1, EOS) for prompt in random_prompts(LENGTHS[:4])]
    sizes = np.concatenate([run.candidates for run in runs])
    spread = np.mean([toy.policy(prompt).std() for prompt in random_prompts(LENGTHS)])
    single, many = (sizes == 1).mean(), (sizes > 3).mean()
    print(
        f"{arch}: logit std {spread:.2f}; one candidate {single:.0%}, more than three {many:.0%} of {len(sizes)} steps"
    )
    assert 2 < spread < 4
    assert single >= 0.2
    assert many >= 0.2
