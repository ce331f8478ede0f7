"""Hold what lm-eval logged of the demo pair against the naive loop: plain transformers and PEFT, no cache, no batch.

    python naive.py RESULTS

Stands beside no code of this project but its weights, so that a pair that decodes wrong tokens cannot agree with itself.
A difference is excused where the naive loop's own choice is closer than 1e-4.
"""

import json
import math
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from aad_plugin.demo import assets

ALPHA, CLOSE = 0.1, 1e-4
STEPS = 16  # of an answer; each re-reads all before it twice


def naive(models, ids, steps, ends):
    """Token ids and margins of the paper's loop."""
    chosen, margins = [], []
    for _ in range(steps):
        with torch.no_grad():
            rows = [read(torch.tensor([ids + chosen])).double().log_softmax(-1) for read in models]
        threshold = rows[0].max() + math.log(ALPHA)
        advantage = torch.where(rows[0] >= threshold, rows[0] - rows[1], -math.inf)
        best = advantage.topk(2).values
        margins.append(min(float(best[0] - best[1]), float((rows[0] - threshold).abs().min())))
        chosen.append(int(advantage.argmax()))
        if chosen[-1] in ends:
            break
    return chosen, margins


def main(results):
    """Compare the answers in a folder of results with the naive loop's."""
    (file,) = Path(results).rglob("samples_aad_demo_dialogue_*.jsonl")
    samples = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    base = AutoModelForCausalLM.from_pretrained(assets.base_model_path(), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, assets.policy_adapter_path()).eval()
    tokenizer = AutoTokenizer.from_pretrained(assets.base_model_path())

    def policy(ids):
        return model(input_ids=ids, use_cache=False).logits[0, -1]

    def reference(ids):
        with model.disable_adapter():
            return model(input_ids=ids, use_cache=False).logits[0, -1]

    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends)
    equal = excused = 0
    for sample in samples:
        # lm-eval writes one request per strategy: the first is aad's.
        asked = sample["arguments"]["gen_args_0"]
        ids = tokenizer(asked["arg_0"], add_special_tokens=False)["input_ids"]
        chosen, margins = naive((policy, reference), ids, min(STEPS, asked["arg_1"]["max_gen_toks"]), ends)
        text, found = tokenizer.decode(chosen, skip_special_tokens=True), sample["resps"][0][0]
        whole = found.strip() if chosen[-1] in ends else found.strip()[: len(text.strip())]
        if text.strip() == whole:
            equal += 1
        elif min(margins) < CLOSE:
            excused += 1
        else:
            sys.exit(f"document {sample['doc_id']}: lm-eval logged {found!r}, the naive loop says {text!r}")
    print(f"{equal} of {len(samples)} answers equal the naive loop's, {excused} excused by a margin below {CLOSE}")
    if not samples or equal < len(samples) / 2:
        sys.exit("too few answers could be compared")


main(sys.argv[1])
