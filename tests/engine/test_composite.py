"""The pair inside vLLM against the naive loop, token for token, in float32 on CPU."""

from __future__ import annotations

import random

import pytest

from tests.toys import EOS, naive_aad, random_prompts

pytestmark = pytest.mark.engine

LENGTHS = [3, 17, 9, 24, 12, 5, 30, 20] * 4
STEPS = 64
CLOSE = 1e-4
VARIANTS = {
    "prefix caching": dict(enable_prefix_caching=True),
    "no prefix caching": dict(enable_prefix_caching=False),
    "chunked prefill": dict(enable_chunked_prefill=True, max_num_batched_tokens=48, max_num_seqs=16),
    "few blocks": dict(num_gpu_blocks_override=24, max_num_seqs=16),
    "compiled": dict(enforce_eager=False),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    from tests.engine.pairs import disk_pair, lora_pair

    root = tmp_path_factory.mktemp("pairs")
    found = {arch: disk_pair(root / arch, arch) for arch in ("llama", "qwen3")}
    found |= {f"{arch} + LoRA": lora_pair(root / f"{arch}-lora", arch) for arch in ("llama", "qwen3")}
    return {**found, "llama + two LoRAs": lora_pair(root / "two", "llama", ("adapter", "reference_adapter"))}


@pytest.fixture(scope="module")
def naive(pairs):
    """The naive loop's tokens and margins for every prompt, per architecture."""
    prompts = random_prompts(LENGTHS)
    return {
        arch: [naive_aad(pair.policy_logits, pair.reference_logits, prompt, STEPS, 0.1, EOS) for prompt in prompts]
        for arch, pair in pairs.items()
    }


def engine(pair, **options):
    from vllm import LLM

    arguments = pair.engine_arguments() | {"worker_extension_cls": "aad_plugin.engine.worker.AADWorkerExtension"}
    llm = LLM(**{**arguments, **options})
    assert all(llm.collective_rpc("aad_attach"))
    return llm


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


@pytest.mark.parametrize(
    ("arch", "variant"),
    [
        *(("llama", name) for name in VARIANTS), ("qwen3", "prefix caching"), ("qwen3", "compiled"),
        *(("llama + LoRA", name) for name in VARIANTS if name != "no prefix caching"), ("qwen3 + LoRA", "prefix caching"),
        ("llama + two LoRAs", "compiled"),
    ],
)  # fmt: skip
def test_tokens_are_the_naive_loops(pairs, naive, arch, variant):
    llm = engine(pairs[arch], **VARIANTS[variant])
    prompts = random_prompts(LENGTHS)
    equal, excused, wrong = differences(decode(llm, prompts), naive[arch])
    if variant == "prefix caching":
        again = differences(decode(llm, prompts), naive[arch])
        assert again == (equal, excused, wrong), "cached prefixes change nothing"
    print(f"{arch}, {variant}: {equal} steps equal, {excused} excused, {wrong} wrong")
    assert wrong == 0 and excused <= 0.01 * equal
    del llm


@pytest.mark.parametrize("arch", ["llama", "llama + two LoRAs"])
def test_two_tensor_parallel_ranks_choose_the_same_tokens(pairs, naive, monkeypatch, arch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two ranks share this machine's cores
    llm = engine(pairs[arch], tensor_parallel_size=2)
    equal, excused, wrong = differences(decode(llm, random_prompts(LENGTHS)[:8]), naive[arch][:8])
    print(f"{arch}, two ranks: {equal} steps equal, {excused} excused, {wrong} wrong")
    assert wrong == 0


@pytest.mark.parametrize("arch", ["llama", "llama + LoRA"])
def test_strategies_are_mixed_in_one_batch(pairs, arch):
    from vllm import SamplingParams, TokensPrompt

    pair = pairs[arch]
    llm = engine(pair)
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
