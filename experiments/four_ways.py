"""One prompt, one answer? The same prompts through lm-eval, ``generate``, ``explain`` and ``serve``, by dtype and batch.

    python -m experiments.four_ways float32 8 --served http://127.0.0.1:8000/v1     # a pair served in that dtype
    python -m experiments.four_ways bfloat16 1

prints how many of 20 answers of each way equal those of ``generate`` with the same dtype and batch size.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aad_plugin import answer
from aad_plugin.explain.explaining import explain
from aad_plugin.pair.model import load_pair

NUM, TOKENS = 20, 64


def main() -> None:
    """Print one line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dtype")
    parser.add_argument("batch", type=int)
    parser.add_argument("--served", help="base URL of a served demo pair")
    options = parser.parse_args()
    file = Path(__file__).parents[1] / "tasks" / "demo" / "dialogue" / "prompts.jsonl"
    prompts = [json.loads(line)["prompt"] for line in file.read_text("utf-8").splitlines()][:NUM]
    pair = load_pair("demo", dtype=options.dtype)
    wanted = answer(pair, prompts, max_new_tokens=TOKENS, batch_size=options.batch)
    found = {"lm_eval": harness(prompts, options.dtype, options.batch)}
    if options.batch == 1:
        found["explain"] = [explain(pair, text, max_new_tokens=TOKENS, beside_greedy=False).answer for text in prompts]
    if options.served:
        found["serve"] = served(prompts, options.served, options.batch)
    for way, answers in found.items():
        equal = sum(a.strip() == b.strip() for a, b in zip(answers, wanted, strict=True))
        print(f"{options.dtype}, batch {options.batch}: {way} equals generate in {equal} of {len(prompts)}", flush=True)


def harness(prompts: list[str], dtype: str, batch: int) -> list[str]:
    """What the lm-eval backend answers."""
    from aad_plugin.harness.model import AADLM
    from aad_plugin.harness.task_host import generate_request

    model = AADLM(pair="demo", dtype=dtype, device="cpu", batch_size=batch)
    texts = [model.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in prompts]
    asked = [generate_request(text, {"until": [], "max_gen_toks": TOKENS, "strategy": "aad"}) for text in texts]
    return [str(one) for one in model.generate_until(asked, disable_tqdm=True)]


def served(prompts: list[str], address: str, batch: int) -> list[str]:
    """What a server answers to so many requests at a time."""
    import openai

    client = openai.OpenAI(base_url=address, api_key="none")

    def one(prompt: str) -> str:
        messages: Any = [{"role": "user", "content": prompt}]
        reply = client.chat.completions.create(model="aad", messages=messages, max_tokens=TOKENS, temperature=0)
        return reply.choices[0].message.content or ""

    with ThreadPoolExecutor(batch) as several:
        return list(several.map(one, prompts))


if __name__ == "__main__":
    main()
