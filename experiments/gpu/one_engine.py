"""One engine in one process: a plain one of the merged policy, or a pair's. Measures when its turn comes.

python -m experiments.gpu.one_engine NAME FOLDER COUNTS NEW

NAME is plain, merged or any other name, which shares the base; FOLDER is disk_pair's. It says when it is ready
(FOLDER/turn.NAME.ready), waits for FOLDER/turn.NAME.go, prints JSON lines and ends with FOLDER/turn.NAME.done.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

STRIDE = 4
ROUNDS = 3


def main(name: str, folder: Path, counts: list[int], new: int) -> None:
    """Start, wait, measure."""
    started = time.monotonic()

    def say(what: str, **found: Any) -> None:
        print(json.dumps({"engine": name, "what": what, **found}), flush=True)

    llm = _engine(name, folder, max(counts))
    say("ready", seconds=round(time.monotonic() - started, 1))
    (folder / f"turn.{name}.ready").touch()
    while not (folder / f"turn.{name}.go").exists():
        time.sleep(0.1)
    truth = json.loads((folder / "truth.json").read_text())
    strategies = [None] if name == "plain" else ["aad", "greedy"]
    generator = random.Random(1)
    vocab = max(max(row) for row in truth["prompts"])
    prompts = [[1, *(generator.randrange(4, vocab) for _ in range(127))] for _ in range(max(counts))]
    for number in counts:
        for strategy in strategies:
            rates = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                _ask(llm, prompts[:number], new, strategy)
                rates.append(number * new / (time.perf_counter() - began))
            say("speed", requests=number, strategy=strategy, tokens_per_second=[round(r, 1) for r in rates])
    for strategy in ["greedy"] if name == "plain" else ["aad", "greedy", "reference"]:
        say("forced", strategy=strategy, **_forced(llm, truth, strategy, name == "plain"))
    for number in (1, 32):
        if number <= max(counts) and os.environ.get("PROFILE"):
            say("profile", requests=number, **_profile(llm, prompts[:number], strategies[0], folder / f"trace.{name}"))
    (folder / f"turn.{name}.done").touch()


def _engine(name: str, folder: Path, most: int) -> Any:
    import torch
    from vllm import LLM

    dtype = os.environ.get("DTYPE", "bfloat16")
    common: dict[str, Any] = {
        "dtype": dtype, "max_model_len": 1024, "max_num_seqs": most, "enable_prefix_caching": False,
        "enforce_eager": bool(os.environ.get("EAGER")),
    }  # fmt: skip
    if torch.cuda.is_available():
        # By bytes, so that engines on one card do not measure each other.
        common |= {"gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": int(float(os.environ["KV_GB"]) * 2**30)}
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128) if size <= most]
        common |= {"max_num_batched_tokens": 4096, "compilation_config": {"cudagraph_capture_sizes": sizes}}
        if os.environ.get("PROFILE"):
            profiler = {"profiler": "torch", "torch_profiler_dir": str(folder / f"trace.{name}")}
            common |= {"profiler_config": {**profiler, "torch_profiler_with_stack": False}}
    if name == "plain":
        return LLM(str(folder / "policy"), **common)
    from aad_plugin.engine.options import engine_pair
    from aad_plugin.settings import DecodingSettings
    from aad_plugin.sources.parts import resolve

    parts = {"policy": "policy"} if name == "merged" else {"adapter": "adapter"}
    source = resolve(reference=str(folder / "reference"), **{k: str(folder / v) for k, v in parts.items()})
    pair = engine_pair(source, DecodingSettings(), dtype=dtype, merge_adapters=None if name == "merged" else False)
    llm = LLM(pair.model, tokenizer=pair.tokenizer, **common, **pair.arguments)
    assert all(llm.collective_rpc("aad_attach"))
    return llm


def _ask(llm: Any, prompts: list[list[int]], new: int, strategy: str | None) -> list[list[int]]:
    from vllm import SamplingParams

    extra = {"aad_strategy": strategy} if strategy else None
    parameters = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False, extra_args=extra)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def _forced(llm: Any, truth: dict[str, Any], strategy: str, plain: bool) -> dict[str, Any]:
    """Hold choices along the text against float32's: from every fourth step, until an answer leaves the text."""
    wanted, margins, text = truth["choices"][strategy], truth["margins"][strategy], truth["text"]
    starts = [(row, at) for row in range(len(text)) for at in range(0, len(text[0]), STRIDE)]
    asked = [truth["prompts"][row] + text[row][:at] for row, at in starts]
    equal, missed = 0, []
    for (row, at), found in zip(starts, _ask(llm, asked, STRIDE, None if plain else strategy), strict=True):
        for step, token in enumerate(found, at):
            if token == wanted[row][step]:
                equal += 1
            else:
                missed.append(round(margins[row][step], 4))
            if token != text[row][step]:
                break
    return {"equal": equal, "choices": equal + len(missed), "margins_of_the_others": sorted(missed)[-8:]}


def _profile(llm: Any, prompts: list[list[int]], strategy: str | None, folder: Path) -> dict[str, Any]:
    """Kernels of a decoding step: microseconds and launches per step, the longest first."""
    import gzip

    steps = 17
    before = set(folder.glob("**/*.json*"))
    llm.start_profile()
    _ask(llm, prompts, steps, strategy)
    llm.stop_profile()
    end = time.monotonic() + 20
    while not (found := sorted(set(folder.glob("**/*.json*")) - before)) and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(2)
    spent: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for file in found:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for event in json.loads(raw)["traceEvents"]:
            if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
                spent[event["name"][:90]] += event["dur"]
                times[event["name"][:90]] += 1
    top = {n: [round(us / steps, 1), round(times[n] / steps, 1)] for n, us in spent.most_common(30)}
    return {
        "us_per_step": round(sum(spent.values()) / steps),
        "launches": round(sum(times.values()) / steps),
        "top": top,
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [int(n) for n in sys.argv[3].split(",")], int(sys.argv[4]))
