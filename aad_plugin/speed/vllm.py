"""The vLLM engine's contestants: a plain engine that holds only the merged policy, the pair's engine, the naive loop.

Both engines stay alive and answer in turn, so that whatever else the machine does meets both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from aad_plugin.engine.options import EnginePair
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.extrapolating import expo_checkpoint
from aad_plugin.sources.merging import full_checkpoints
from aad_plugin.sources.parts import PairSource
from aad_plugin.speed.counting import worker_counts
from aad_plugin.speed.loops import naive_loop
from aad_plugin.speed.measure import Contestant

PLAIN, NAIVE = "greedy, merged: plain engine", "aad: naive loop, transformers"
BASELINES = (PLAIN,)
REST = 2.0  # seconds: a worker of vLLM polls for a second after its last step before it sleeps
COUNTING = "aad_plugin.speed.counting.CountingExtension"
UNCOUNTED = "operations and waits: not counted, since compiled steps dispatch nothing one by one (--eager counts them)"
_CONTEXT = 1024


def contestants(
    pair: EnginePair,
    source: PairSource,
    prompts: Sequence[str],
    strategies: Sequence[str],
    batches: Sequence[int],
    tokens: int,
    dtype: str,
    eager: bool = False,
    settings: DecodingSettings | None = None,
) -> list[Contestant]:
    """Start both engines and return every contestant at every number of requests; the naive loop, of a pair that has a
    reference, at the largest.

    Args:
        pair: what the pair's engine loads. source: its parts, merged for the plain engine and the naive loop.
        prompts: at least as many as the largest batch; each a user turn.
        strategies: aad, greedy, reference, eft, guided, or expo (a third engine, of the plain extrapolated model).
        tokens: new tokens per answer, no more and no fewer.
        dtype: of both engines and the naive loop. eager: both engines without compilation and CUDA graphs; what their
            steps dispatch is then counted.
        settings: the pair's, whose alpha the naive loop takes and whose expo_scale the third engine.
    """
    from vllm import LLM

    settings = settings or DecodingSettings()
    policy, reference = full_checkpoints(source, dtype)
    common: dict[str, Any] = {
        "tokenizer": pair.tokenizer, "dtype": dtype, "max_num_seqs": max(batches), "enforce_eager": eager,
        "enable_prefix_caching": False,
    }  # fmt: skip
    if torch.cuda.is_available():
        common["gpu_memory_utilization"] = 0.3 if "expo" in strategies else 0.4
    own = pair.arguments
    if eager:
        common["worker_extension_cls"] = COUNTING
        own = {name: value for name, value in own.items() if name != "worker_extension_cls"}
    common["max_model_len"] = min(_CONTEXT, own.get("max_model_len", _CONTEXT))
    plain, composite = LLM(policy, **common), LLM(pair.model, **{**own, **common})
    assert all(composite.collective_rpc("aad_attach"))
    engines = dict.fromkeys(strategies, composite)
    if "expo" in engines:
        engines["expo"] = LLM(str(expo_checkpoint(source, settings.expo_scale, dtype)), **common)
    found = []
    for batch in batches:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts[:batch]]
        for name, llm in {PLAIN: plain, **engines}.items():
            ask = partial(_ask, llm, chats, None if name in (PLAIN, "expo") else name)
            # Other numbers of requests dispatch as much.
            counted = partial(worker_counts, llm, ask) if eager and batch == batches[0] else None
            found.append(Contestant(name, batch, batch * tokens, partial(ask, tokens), counted))
    if source.is_alone:
        return found
    return [*found, _naive(policy, reference, prompts[: max(batches)], tokens, dtype, settings.alpha)]


def _ask(llm: Any, chats: list[Any], strategy: str | None, tokens: int) -> torch.Tensor:
    from vllm import SamplingParams

    extra = {"aad_strategy": strategy} if strategy else None
    parameters = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra)
    outputs = llm.chat(chats, parameters, use_tqdm=False)
    return torch.tensor([output.outputs[0].token_ids for output in outputs])


def _naive(policy: str, reference: str, prompts: Sequence[str], tokens: int, dtype: str, alpha: float) -> Contestant:
    from aad_plugin.pair.answering import encode_prompts
    from aad_plugin.pair.model import load_pair

    device = "cuda" if torch.cuda.is_available() else None
    pair = load_pair(policy=policy, reference=reference, dtype=dtype, device=device)
    held = pair.sides.models()
    ids, mask = encode_prompts(pair, prompts)
    call = partial(naive_loop, held["policy"], held["reference"], ids, mask, tokens, alpha)
    return Contestant(NAIVE, len(prompts), len(prompts) * tokens, call)
