"""The pair inside vLLM against the naive loop, token for token, in float32 on CPU."""

from __future__ import annotations

import functools
import random
from types import SimpleNamespace

import pytest

from tests.toys import EOS, naive_aad, random_prompts

pytestmark = pytest.mark.engine

LENGTHS = [3, 17, 9, 24, 12, 5, 30, 20] * 4
STEPS = 64
CLOSE = 1e-4
PLAIN: dict[str, object] = {}
NO_PREFIX = dict(enable_prefix_caching=False)
CHUNKED = dict(enable_chunked_prefill=True, max_num_batched_tokens=48, max_num_seqs=16)
CROWDED = dict(num_gpu_blocks_override=24, max_num_seqs=16)
COMPILED = dict(enforce_eager=False)
# One engine each, so everything that is shown on a pair with the same options stands together.
CASES = [
    ("llama", PLAIN), ("llama", NO_PREFIX), ("llama", CHUNKED), ("llama", CROWDED),
    ("llama + LoRA", PLAIN), ("llama + LoRA", CHUNKED), ("llama + LoRA", CROWDED),
    pytest.param("qwen3", PLAIN, marks=pytest.mark.grid), ("qwen3 + LoRA", PLAIN), ("llama + two LoRAs", COMPILED),
]  # fmt: skip
MORE_COMPILED = [("llama", COMPILED), ("qwen3", COMPILED), ("llama + LoRA", COMPILED)]


@pytest.fixture(scope="module")
def naive(toy_pairs):
    """The naive loop's tokens and margins for every prompt, per pair."""
    prompts = random_prompts(LENGTHS)

    @functools.cache
    def runs(name):
        pair = toy_pairs[name]
        return [naive_aad(pair.policy_logits, pair.reference_logits, prompt, STEPS, 0.1, EOS) for prompt in prompts]

    return runs


def decode(llm, prompts, **parameters):
    from vllm import SamplingParams, TokensPrompt

    chosen = SamplingParams(**{"temperature": 0, "max_tokens": STEPS, **parameters})
    outputs = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], chosen, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def differences(found, runs) -> tuple[int, int, int]:
    """(equal steps, excused prompts, wrong prompts); a prompt ends at its first difference."""
    equal = excused = wrong = 0
    for tokens, run in zip(found, runs, strict=True):
        for step, (own, naive_token) in enumerate(zip(tokens, run.tokens, strict=False)):
            if own == naive_token:
                equal += 1
                continue
            excused, wrong = (excused + 1, wrong) if run.margins[step] < CLOSE else (excused, wrong + 1)
            break
        else:
            wrong += len(tokens) != len(run.tokens)
    return equal, excused, wrong


def check_tokens(llm, runs, name, options):
    prompts = random_prompts(LENGTHS)
    equal, excused, wrong = differences(decode(llm, prompts), runs)
    again = differences(decode(llm, prompts), runs)
    print(f"{name}, {options or 'prefix caching'}: {equal} steps equal, {excused} excused, {wrong} wrong")
    assert wrong == 0 and excused <= 0.01 * equal
    assert again == (equal, excused, wrong), "cached prefixes change nothing"


def check_mixture(llm, pair):
    """Every row of a batch by a strategy of its own."""
    from vllm import SamplingParams, TokensPrompt

    prompts = random_prompts([9, 21, 14, 5] * 4)
    wanted = [{}, {"aad_strategy": "greedy"}, {"aad_strategy": "reference"}, {"aad_alpha": 0.5}] * 4
    random.Random(0).shuffle(wanted)
    parameters = [SamplingParams(temperature=0, max_tokens=32, extra_args=extra or None) for extra in wanted]
    outputs = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], parameters, use_tqdm=False)
    for prompt, extra, output in zip(prompts, wanted, outputs, strict=True):
        policy = pair.reference_logits if extra.get("aad_strategy") == "reference" else pair.policy_logits
        alpha = 1.0 if "aad_strategy" in extra else extra.get("aad_alpha", 0.1)  # alpha 1 is the policy's argmax
        expected = naive_aad(policy, pair.reference_logits, prompt, 32, alpha, EOS).tokens
        assert list(output.outputs[0].token_ids) == expected, extra


def ids(case):
    return "-".join(f"{name}={value}" for name, value in case.items()) or "plain" if isinstance(case, dict) else case


@pytest.mark.parametrize(("name", "options"), CASES, ids=ids)
def test_tokens_are_the_naive_loops(toy_engines, naive, name, options):
    check_tokens(toy_engines(name, **options), naive(name), name, options)


@pytest.mark.grid
@pytest.mark.parametrize(("name", "options"), MORE_COMPILED, ids=ids)
def test_tokens_are_the_naive_loops_compiled(toy_engines, naive, name, options):
    check_tokens(toy_engines(name, **options), naive(name), name, options)


@pytest.mark.grid
@pytest.mark.parametrize("name", ["llama + two LoRAs", "llama"])
def test_two_tensor_parallel_ranks_choose_the_same_tokens(toy_engines, naive, monkeypatch, name):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two ranks share this machine's cores
    llm = toy_engines(name, tensor_parallel_size=2)
    equal, excused, wrong = differences(decode(llm, random_prompts(LENGTHS)[:8]), naive(name)[:8])
    print(f"{name}, two ranks: {equal} steps equal, {excused} excused, {wrong} wrong")
    assert wrong == 0


@pytest.mark.parametrize("name", ["llama", "llama + LoRA"])
def test_strategies_are_mixed_in_one_batch(toy_engines, toy_pairs, name):
    check_mixture(toy_engines(name), toy_pairs[name])


IN_ONE_PASS = [("llama + two LoRAs", PLAIN), pytest.param("llama + LoRA", COMPILED, marks=pytest.mark.grid)]


@pytest.mark.parametrize(("name", "options"), IN_ONE_PASS, ids=ids)
def test_adapters_in_one_pass_choose_the_same_tokens(toy_engines, naive, monkeypatch, name, options):
    """As compiled code on a GPU has them: A below the weights, B added term by term; the head read once for both sides."""
    monkeypatch.setattr("aad_plugin.engine.composite.fuses", lambda config: True)
    monkeypatch.setattr("aad_plugin.engine.heads.current_platform", SimpleNamespace(is_cpu=lambda: False))
    llm = toy_engines(name, max_num_seqs=31, **options)
    check_tokens(llm, naive(name), name, {"in one pass": True, **options})


NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 3}


@pytest.mark.grid
@pytest.mark.parametrize(
    ("name", "drafts"),
    [("llama + LoRA", NGRAM), ("llama", {"method": "draft_model", "num_speculative_tokens": 3})],
    ids=["ngram", "draft_model"],
)
def test_drafts_change_no_token(toy_engines, toy_pairs, naive, name, drafts):
    """Nor the strategy of a request, which has a row for each draft."""
    if drafts["method"] == "draft_model":
        drafts = {**drafts, "model": toy_pairs[name].rest["reference"]}
    llm = toy_engines(name, own_process=True, speculative_config=drafts, disable_log_stats=False)
    check_tokens(llm, naive(name), name, drafts)
    accepted = {metric.name: getattr(metric, "value", None) for metric in llm.get_metrics()}
    assert accepted["vllm:spec_decode_num_accepted_tokens"] > 0
    check_mixture(llm, toy_pairs[name])
