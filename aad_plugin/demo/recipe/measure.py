"""Held-out preference accuracy of the policy's implicit reward and of the reward model, next to answer length's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aad_plugin.demo.recipe.pairs import Pair, longer_wins
from aad_plugin.demo.recipe.training import POLICY, REWARD, Hyperparameters, chat_prompt, conversation

__all__ = ["accuracy_table", "implicit_rewards", "model_rewards", "token_counter", "write_figures"]

BATCH_SIZE = 16


def token_counter(base: Path) -> Callable[[str], int]:
    """Return a function that counts a text's tokens with the tokenizer in folder `base`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)


def implicit_rewards(base: Path, adapter: Path, answers: Sequence[tuple[str, str, bool]]) -> list[float]:
    """Return log π_policy(y|x) − log π_reference(y|x), summed over an answer's tokens.

    Args:
        base: folder of the reference.
        adapter: folder of the DPO adapter.
        answers: (prompt, answer, ended); an ended answer's end token is counted too.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), adapter).eval()
    prompts = [chat_prompt(tokenizer, prompt) for prompt, _, _ in answers]
    texts = [p + text + tokenizer.eos_token * ended for p, (_, text, ended) in zip(prompts, answers, strict=True)]
    rewards: list[float] = []
    for rows in _batches(range(len(texts))):
        batch = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, add_special_tokens=False)
        starts = [len(tokenizer(prompts[i], add_special_tokens=False).input_ids) for i in rows]
        with torch.inference_mode():
            policy = _token_logprobs(model, batch)
            with model.disable_adapter():
                advantage = policy - _token_logprobs(model, batch)
        for row, start in enumerate(starts):
            end = int(batch.attention_mask[row].sum())
            rewards.append(float(advantage[row, start - 1 : end - 1].sum()))
    return rewards


def model_rewards(base: Path, adapter: Path, answers: Sequence[tuple[str, str]]) -> list[float]:
    """Return the reward model's score of each (prompt, answer), read as a closed conversation."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.bfloat16, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    model = PeftModel.from_pretrained(model, adapter).eval()
    texts = [tokenizer.apply_chat_template(conversation(*a), tokenize=False) for a in answers]
    rewards: list[float] = []
    for rows in _batches(range(len(texts))):
        batch = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            rewards += model(**batch).logits[:, 0].float().tolist()
    return rewards


def accuracy_table(pairs: Sequence[Pair], chosen: Sequence[float], rejected: Sequence[float]) -> dict[str, dict]:
    """Return, for all pairs and per kind, their number, how often chosen > rejected, and length's accuracy.

    Length's accuracy is that of the best of four rules, chosen in hindsight per row: longer or shorter wins, in tokens
    or in characters.
    """
    by_kind: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        by_kind["all"].append(i)
        by_kind[pair.kind].append(i)
    table = {}
    for kind, rows in by_kind.items():
        mine = [pairs[i] for i in rows]
        longer = (longer_wins(mine), longer_wins(mine, characters=True))
        right = sum(chosen[i] > rejected[i] for i in rows) / len(rows)
        table[kind] = {
            "pairs": len(rows),
            "accuracy": round(right, 3),
            "length_accuracy": round(max(*longer, 1 - min(longer)), 3),
        }
    return table


def write_figures(base: Path, pairs: dict[str, list[Pair]], out: Path) -> None:
    """Measure the models in `out` on their held-out pairs and write ``figures.json`` there; a few minutes.

    Args:
        base: folder of the reference.
        pairs: all pairs of ``policy`` and ``reward``.
        out: folder with ``policy/`` and ``reward/``.
    """
    policy, reward = ([p for p in pairs[split] if p.held_out] for split in ("policy", "reward"))
    sides = [(p.prompt, p.chosen, p.chosen_ended) for p in policy]
    sides += [(p.prompt, p.rejected, p.rejected_ended) for p in policy]
    implicit = implicit_rewards(base, out / "policy", sides)
    texts = [(p.prompt, p.chosen) for p in reward] + [(p.prompt, p.rejected) for p in reward]
    scores = model_rewards(base, out / "reward", texts)
    figures = {
        "policy": _figures(policy, implicit, POLICY, len(pairs["policy"]) - len(policy)),
        "reward": _figures(reward, scores, REWARD, len(pairs["reward"]) - len(reward)),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _figures(held_out: list[Pair], scores: list[float], settings: Hyperparameters, num_training_pairs: int) -> dict:
    table = accuracy_table(held_out, scores[: len(held_out)], scores[len(held_out) :])
    return {"training": {**vars(settings), "pairs": num_training_pairs}, "held_out": table}


def _batches(rows: range) -> Iterator[range]:
    return (rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE))


def _token_logprobs(model, batch):
    """Return (B, T - 1) float32: the log-probability of token t + 1 after token t."""
    logits = model(**batch).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]
