"""The pair inside vLLM on a GPU: what CUDA graphs, the two model runners and the head's precision do to its tokens.

Every variant is a process and an engine of its own; the demo pair answers the same prompts. Prints at how many prompts a
variant's tokens are those of the float32 engine without graphs or compilation, and at how many steps AAD's two best
scores were equal. Their tokens go to runs/vllm_gpu.json, which `experiments.forced_choices` holds against the CPU.

    python -m experiments.vllm_gpu [prompts] [tokens] [variant ...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

KEPT = Path("runs/vllm_gpu.json")
EAGER = {"enforce_eager": True}
GRAPHS = {"compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE"}}
PIECEWISE = {"compilation_config": {"cudagraph_mode": "PIECEWISE"}}
SECOND, FIRST = {"VLLM_USE_V2_MODEL_RUNNER": "1"}, {"VLLM_USE_V2_MODEL_RUNNER": "0"}
# name: dtype, engine arguments, environment, options of `_answer`
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, str], dict[str, Any]]] = {
    "float32, eager": ("float32", EAGER, SECOND, {}),
    "float32, eager, first runner": ("float32", EAGER, FIRST, {}),
    "float32, full and piecewise graphs": ("float32", GRAPHS, SECOND, {}),
    "float32, full and piecewise graphs, first runner": ("float32", GRAPHS, FIRST, {}),
    "float32, piecewise graphs": ("float32", PIECEWISE, SECOND, {}),
    "float32, piecewise graphs, policy not cloned": ("float32", PIECEWISE, SECOND, {"clone": False}),
    "float32, full and piecewise graphs, policy not cloned": ("float32", GRAPHS, SECOND, {"clone": False}),
    "bfloat16, full and piecewise graphs": ("bfloat16", GRAPHS, SECOND, {}),
    "bfloat16, full and piecewise graphs, float32 heads": ("bfloat16", GRAPHS, SECOND, {"head_dtype": "float32"}),
    "bfloat16, eager": ("bfloat16", EAGER, SECOND, {}),
}


def main(prompts: int, tokens: int, names: Sequence[str]) -> None:
    """Run the variants, four at a time, and compare each with the first."""
    chosen, answers = list(names or VARIANTS), {}
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(_run, name, prompts, tokens) for name in chosen]
        truth: Any = None
        for name, run in zip(chosen, runs, strict=True):
            found = run.result()
            if isinstance(found, str):
                print(f"{name}: failed\n{found}", flush=True)
                continue
            truth = truth or found["tokens"]
            answers[name] = found["tokens"]
            pairs = list(zip(found["tokens"], truth, strict=True))
            steps = sum(_equal_steps(*pair) for pair in pairs)
            print(
                f"{name}: {sum(a == b for a, b in pairs)} of {len(pairs)} answers equal, {steps} of "
                f"{len(pairs) * tokens} steps before the first difference; equal best scores at {found['ties']} of "
                f"{found['choices']} choices; {found['graphs']}; {found['runner']}",
                flush=True,
            )
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(answers), encoding="utf-8")


def _run(name: str, prompts: int, tokens: int) -> Any:
    """One variant's report, or the end of its log."""
    command = [sys.executable, "-m", "experiments.vllm_gpu", "--one", name, str(prompts), str(tokens)]
    # One process per engine, so that the composite can be watched and changed where it runs.
    environment = {**os.environ, **VARIANTS[name][2], "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return "\n".join((done.stdout + done.stderr).splitlines()[-25:])
    return json.loads(done.stdout.splitlines()[-1])


def _equal_steps(one: list[int], other: list[int]) -> int:
    return next((step for step, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def _answer(name: str, prompts: int, tokens: int) -> None:
    """Start one engine and print its answers as JSON."""
    dtype, engine, _, options = VARIANTS[name]
    from vllm import LLM, SamplingParams

    from aad_plugin.cli.bench import read_prompts
    from aad_plugin.engine import composite
    from aad_plugin.engine.options import engine_pair
    from aad_plugin.settings import DecodingSettings
    from aad_plugin.sources.parts import resolve

    if options.get("clone") is False:
        composite.AADForCausalLM.forward = _forward_without_clone  # type: ignore[method-assign]
    pair = engine_pair(resolve("demo"), DecodingSettings(), dtype=dtype, merge_adapters=True)
    if "head_dtype" in options:
        pair.arguments["hf_overrides"]["aad"]["head_dtype"] = options["head_dtype"]
    llm: Any = LLM(
        model=pair.model, tokenizer=pair.tokenizer, dtype=dtype, max_model_len=1024, max_num_seqs=32,
        kv_cache_memory_bytes=2**31, gpu_memory_utilization=0.15, enable_prefix_caching=False, **pair.arguments, **engine,
    )  # fmt: skip
    assert all(llm.collective_rpc("aad_attach"))
    counted = _watch(composite)
    chats = [[{"role": "user", "content": prompt}] for prompt in read_prompts(None, prompts)[:prompts]]
    outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True), use_tqdm=False)
    config = llm.llm_engine.vllm_config
    runner = llm.llm_engine.collective_rpc(_runner_name)[0]
    report = {
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "ties": int(counted[0]), "choices": int(counted[1]), "runner": runner,
        "graphs": f"graphs {config.compilation_config.cudagraph_mode.name}",
    }  # fmt: skip
    print("\n" + json.dumps(report), flush=True)
    os._exit(0)  # the engine's own ending may outlast the answer


def _runner_name(worker: Any) -> str:
    return type(worker.model_runner).__module__


def _forward_without_clone(self: Any, input_ids: Any, positions: Any, *rest: Any, **unused: Any) -> Any:
    policy = self.policy(input_ids, positions, None, None)
    return torch.cat([policy, self.reference(input_ids, positions, None, None)], dim=-1)


def _watch(composite: Any) -> list[Any]:
    """Count, from now on, steps with a choice and those whose two best scores are one float32 step apart: a tie."""
    counted: list[Any] = [0, 0]
    inner = composite.score_rows

    def score_rows(*arguments: Any) -> Any:
        scores = inner(*arguments)
        best, second = scores.float().topk(2, dim=-1).values.unbind(-1)
        choice = second > -500  # two plausible tokens or more
        counted[1] = counted[1] + choice.sum()
        counted[0] = counted[0] + (choice & (best <= torch.nextafter(second, best + 1))).sum()
        return scores

    composite.score_rows = score_rows
    return counted


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _answer(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        given = sys.argv[1:]
        main(int(given[0]) if given else 32, int(given[1]) if len(given) > 1 else 64, given[2:])
