"""The demo pair with its real weights: equality with the naive loop, one copy of the base, sane answers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from aad_plugin.pair.model import load_pair
from tests.toys import Comparison, NaiveRun, compare, left_pad, model_logits, naive_aad

pytestmark = pytest.mark.slow

PROMPTS = [
    "How do I keep bread fresh?",
    "Explain what a library card is for.",
    "Give me three ideas for a rainy Sunday with two small children at home.",
    "Rewrite this more politely: send me the report now.",
    "Why do leaves change colour in autumn?",
    "What is the difference between a hill and a mountain, and who decides which is which?",
    "Name two uses of baking soda.",
    "Write a birthday wish for a colleague.",
]


@pytest.fixture(scope="module")
def pair(two_threads):
    return load_pair("demo", dtype="float32")


def encode(pair, prompts: list[str]) -> list[list[int]]:
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [pair.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
    return [pair.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def naive_run(pair, prompt: list[int], steps: int, alpha: float = 0.1) -> NaiveRun:
    """The naive loop over the pair's two sides, by PEFT's own switching."""
    model = pair.sides.model

    def reference(prefix):
        with model.disable_adapter():
            return model_logits(model)(prefix)

    return naive_aad(model_logits(model), reference, prompt, steps, alpha, pair.generation_config.eos_token_id)


def hold_against_naive(pair, prompts: list[list[int]], steps: int, alpha: float) -> Comparison:
    """Compare each prompt alone and all of them in one left-padded batch with the naive loop."""
    pad = pair.tokenizer.pad_token_id
    ids, mask = left_pad(prompts, pad)
    options = dict(alpha=alpha, pad_token_id=pad)
    batch = pair.generate(input_ids=ids, attention_mask=mask, max_new_tokens=steps, **options)[
        :, ids.shape[1] :
    ].tolist()
    total = Comparison()
    for prompt, row in zip(prompts, batch, strict=True):
        run = naive_run(pair, prompt, steps, alpha)

        def alone(prefix, count):
            return pair.generate(input_ids=torch.tensor([prefix]), max_new_tokens=count, **options)[
                0, len(prefix) :
            ].tolist()

        def in_batch(prefix, count, prompt=prompt, row=row):
            return row[:count] if prefix == prompt else alone(prefix, count)

        for decode in (alone, in_batch):
            result = compare(run, prompt, decode)
            total = Comparison(total.steps + result.steps, total.excused + result.excused)
    return total


def test_equality_with_the_naive_loop(pair):
    result = hold_against_naive(pair, encode(pair, PROMPTS[:2]), 32, 0.1)
    print(f"{result.steps} steps equal, {result.excused} excused")
    assert result.excused <= 0.01 * result.steps


def test_one_copy_of_the_base(pair):
    adapters = sum(p.numel() for name, p in pair.named_parameters() if "lora_" in name)
    base = sum(p.numel() for p in pair.parameters()) - adapters
    assert base == 134_515_008  # SmolLM2-135M, its model card
    assert adapters < 0.03 * base


MEASURE = """
import json, resource, sys, torch
torch.set_num_threads(2)
from aad_plugin.pair.model import load_pair
pair = load_pair("demo", shortcuts=sys.argv[2])
ids = torch.randint(100, 40000, (4, 40), generator=torch.Generator().manual_seed(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
options = dict(attention_mask=torch.ones_like(ids), max_new_tokens=32, eos_token_id=None)
out = pair.generate(input_ids=ids, strategy=sys.argv[1], **options)
print(json.dumps([before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.grid
def test_aad_needs_hardly_more_memory_than_greedy_with_the_same_adapter():
    def peak(strategy: str, shortcuts: str) -> int:
        words = [sys.executable, "-c", MEASURE, strategy, shortcuts]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])[1] * 1024

    greedy, aad, packed = peak("greedy", "lazy"), peak("aad", "lazy"), peak("aad", "packed")
    weights = 2 * 134_515_008
    print(*(f"{name} {size / 2**20:.0f} MiB" for name, size in
            (("greedy", greedy), ("aad", aad), ("aad, packed", packed), ("weights", weights))), sep=", ")  # fmt: skip
    assert aad <= greedy + 0.25 * weights
    assert packed <= greedy + 1.25 * weights
