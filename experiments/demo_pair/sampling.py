"""Answers that the reference writes itself, under system prompts that ask for good and for bad work.

Only the prompt differs between the two sides of a later preference pair, so what a policy can learn from it is already
in the reference. Answers are appended to a JSONL file batch by batch; a second run goes on where the first one stopped.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.demo_pair.prompts import Prompt, load_prompts

MAX_NEW_TOKENS = 64  # as in the demo task: what is cut there is cut here
BATCH_SIZE = 56


@dataclass(frozen=True)
class Condition:
    """How the reference is asked: a system message (None: the template's own) and a temperature."""

    system: str | None
    temperature: float = 0.8


@dataclass(frozen=True)
class Answer:
    """One sampled answer. `ended` says that the model closed it within the token limit."""

    prompt_id: str
    condition: str
    sample: int
    text: str
    num_tokens: int
    ended: bool


_EXPERT = (
    "You are a friendly expert. Answer exactly what was asked. Start with the answer itself, be specific and correct, "
    "give concrete details or examples, and use plain words in a clear order."
)
CONDITIONS = {
    "helpful": Condition(_EXPERT, temperature=0.6),
    "short": Condition(_EXPERT + " Keep it short: three sentences at most.", temperature=0.6),
    "brief": Condition(
        "You answer briefly. Say exactly what was asked for, clearly and concretely, in at most 40 words.",
        temperature=0.6,
    ),
    "careless": Condition(
        "You are a lazy assistant who does not care. Give a vague, careless answer without any details or examples."
    ),
    "rambling": Condition(
        "You are an absent-minded assistant. Talk around the question in empty general phrases, drift away from the "
        "topic and never give anything that could be used."
    ),
    "noisy": Condition(None, temperature=1.2),
}

# condition -> answers per prompt
PLAN = {
    "policy": {"short": 1, "careless": 1, "helpful": 1, "rambling": 1},
    "reward": {"short": 1, "careless": 1, "helpful": 1, "rambling": 1, "brief": 1, "noisy": 1},
}


def sample_answers(base: Path, split: str, out: Path, *, seed: int = 0) -> None:
    """Sample what `PLAN` asks for `split` and is not in `out` yet, and append it there. Slow: minutes on two cores.

    Args:
        base: folder of the reference.
        split: ``policy`` or ``reward``.
        out: JSONL file, created if absent.
        seed: the same seed, batch size and library versions give the same answers.
    """
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = {(a.prompt_id, a.condition, a.sample) for a in load_answers(out)} if out.exists() else set()
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    batches = _batches(load_prompts(split), PLAN[split])
    for name, sample, prompts in tqdm(batches, desc=f"sampling {split}"):
        if all((p.id, name, sample) in done for p in prompts):
            continue
        torch.manual_seed(zlib.crc32(f"{seed} {name} {sample} {prompts[0].id}".encode()))
        answers = _answer(model, tokenizer, name, sample, prompts)
        with out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(a), ensure_ascii=False) + "\n" for a in answers)


def load_answers(path: Path) -> list[Answer]:
    """Read what `sample_answers` wrote."""
    return [Answer(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _batches(prompts: list[Prompt], plan: dict[str, int]) -> list[tuple[str, int, list[Prompt]]]:
    starts = range(0, len(prompts), BATCH_SIZE)
    return [
        (name, sample, prompts[start : start + BATCH_SIZE])
        for name, count in plan.items()
        for sample in range(count)
        for start in starts
    ]


def _answer(model, tokenizer, name: str, sample: int, prompts: list[Prompt]) -> list[Answer]:
    import torch

    condition = CONDITIONS[name]
    system = [{"role": "system", "content": condition.system}] if condition.system else []
    chats = [[*system, {"role": "user", "content": p.text}] for p in prompts]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(
            **batch,
            do_sample=True,
            temperature=condition.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_NEW_TOKENS,
        )
    answers = []
    for prompt, ids in zip(prompts, out[:, batch.input_ids.shape[1] :].tolist(), strict=True):
        ended = tokenizer.eos_token_id in ids
        kept = ids[: ids.index(tokenizer.eos_token_id)] if ended else ids
        text = tokenizer.decode(kept, skip_special_tokens=True).strip()
        answers.append(Answer(prompt.id, name, sample, text, len(kept), ended))
    return answers
