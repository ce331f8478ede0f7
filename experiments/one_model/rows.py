"""The rows: how each makes its model, and what is measured of all of them alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from aad_plugin.files.run_folder import read_account
from aad_plugin.files.whole import making_folder, write_text
from aad_plugin.pair.answering import answer, encode_prompts
from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.pair.step import whole_text
from aad_plugin.pair.stopping import answer_lengths, end_ids
from aad_plugin.pair.strategies import decode
from aad_plugin.rivals.rival_task import is_degenerate
from aad_plugin.sources.arguments import take_settings, take_source
from aad_plugin.synthesis.filters import Limits
from aad_plugin.synthesis.synthesizing import Recipe
from aad_plugin.texts.prompts import PromptSet
from aad_plugin.training import distilling, reinforcing, rounds
from aad_plugin.training.evaluation import load_scorer
from aad_plugin.training.implicit_reward import right_pad
from aad_plugin.training.owning import free
from aad_plugin.training.recipes import one_model_recipe, recipe_path

TRAINED = ("iterate", "distill-aad", "distill-eft", "grpo-implicit", "grpo-rollouts")
_PAIRS = 8  # of answers that one step of DPO reads
_DPO = ("--per_device_train_batch_size", str(_PAIRS), "--gradient_accumulation_steps", "1", "--warmup_steps", "2")
_COMPARED = 40  # prompts along whose answers logits are read


@dataclass(frozen=True)
class Asked:
    """What the table is asked to hold; names as on the command line."""

    model_args: dict[str, Any]
    prompts: PromptSet
    held_out_prompts: PromptSet
    oracle_prompts: PromptSet
    oracle: str
    picker: str
    output: Path
    seeds: tuple[int, ...]
    scales: tuple[float, ...]
    eft_scale: float
    steps: int
    distill_recipe: str
    rl_training: str
    dpo_recipe: str
    max_new_tokens: int
    batch_size: int

    @property
    def placement(self) -> dict[str, Any]:
        """How any row's model is loaded."""
        return {name: value for name, value in self.model_args.items() if name in ("dtype", "device")}


@dataclass(frozen=True)
class _Made:
    """A row's model: model_args of a pair and how it answers; what its training has evaluated already, if it did."""

    model_args: dict[str, Any]
    strategy: str = "greedy"
    settings: dict[str, Any] | None = None
    note: str = ""
    evaluated: Path | None = None


def recipes(asked: Asked) -> dict[str, Path]:
    """The files of TRL's options, by what they train."""
    return {
        "distill": one_model_recipe(asked.distill_recipe), "grpo": one_model_recipe(asked.rl_training),
        "iterate": recipe_path(asked.dpo_recipe),
    }  # fmt: skip


def row_names(asked: Asked) -> list[str]:
    """The rows in the order in which they are made; those that train, once per seed: a run that is cut short has all of
    them with fewer seeds."""
    return ["greedy", "aad", "expo", *(f"{name}-{seed}" for seed in asked.seeds for name in TRAINED)]


def measured(asked: Asked, name: str) -> dict[str, Any]:
    """Make a row's model and return its figures; answers and rewards go along, so that the table pairs them."""
    made = _make(asked, name)
    free()
    pair = load_pair(**made.model_args)
    settings = made.settings or {}
    texts, rewards = _scored(asked, pair, made)
    original = load_pair(**asked.model_args)
    role = {"expo": "expo"}.get(made.strategy, "policy")
    if role == "expo":
        pair.sides.extrapolate(settings["expo_scale"])
    return {
        "row": name, "note": made.note, **settings, "texts": texts, "rewards": rewards,
        "degenerate": sum(map(is_degenerate, texts)) / len(texts),
        "kl_to_policy": None if made.strategy == "aad" else _kl(asked, pair, role, original, texts),
        **_agreement(asked, pair, role if made.strategy != "aad" else "aad", original),
    }  # fmt: skip


def _scored(asked: Asked, pair: AlignedPair, made: _Made) -> tuple[list[str], list[float]]:
    """Answers to the oracle's prompts and what the oracle makes of them."""
    if made.evaluated is not None:
        there = read_account(made.evaluated / "evaluation.json")["oracle"]
        return there["texts"], there["scores"]
    texts = _answers(asked, pair, asked.oracle_prompts, made)
    return texts, load_scorer(asked.oracle, asked.model_args)(asked.oracle_prompts.prompts, texts)


def _answers(asked: Asked, pair: AlignedPair, prompts: PromptSet, made: _Made) -> list[str]:
    texts = answer(
        pair, list(prompts.prompts), strategy=made.strategy, max_new_tokens=asked.max_new_tokens,
        batch_size=asked.batch_size, progress=True, **(made.settings or {}),
    )  # fmt: skip
    return [text.strip() for text in texts]  # as trainings keep theirs


def _make(asked: Asked, name: str) -> _Made:
    if name in ("greedy", "aad"):
        return _Made(asked.model_args, name)
    if name == "expo":
        return _best_expo(asked)
    kind, _, seed = name.rpartition("-")
    if kind == "iterate":
        return _iterated(asked, seed)
    folder = asked.output / name
    _adopt(asked, f"{kind.partition('-')[0]}-*/evaluated/start/evaluation.json", folder / "evaluated" / "start")
    common: dict[str, Any] = {
        "prompts": asked.prompts, "held_out": asked.held_out_prompts, "oracle_prompts": asked.oracle_prompts,
        "oracle": asked.oracle, "batch_size": asked.batch_size, "max_new_tokens": asked.max_new_tokens,
        "trl_arguments": ("--seed", seed, "--max_steps", str(asked.steps), "--max_completion_length",
                          str(asked.max_new_tokens)),
    }  # fmt: skip
    if kind.startswith("distill"):
        teacher = kind.partition("-")[2]
        plan = distilling.Plan(
            training=recipes(asked)["distill"], picker=asked.picker, teacher=teacher,
            scale=asked.eft_scale, alpha=_alpha(asked), student="weights", **common,
        )  # fmt: skip
        step = distilling.distill(folder, plan, asked.model_args)["about"]["chosen_step"]
        return _checkpoint(asked, folder / "student", f"step {step}", folder / "evaluated" / f"step-{step}")
    plan_of_rl = reinforcing.Plan(
        recipe=kind, training=recipes(asked)["grpo"], share=0.25 if kind == "grpo-rollouts" else 0.0,
        alpha=_alpha(asked), **common,
    )  # fmt: skip
    figures = reinforcing.reinforce(folder, plan_of_rl, asked.model_args)
    before, after = (figures[when]["picker_mean"] for when in ("start", "trained"))
    note = f"implicit reward of held-out answers {before:.2f} → {after:.2f}"
    return _checkpoint(asked, folder / "policy", note, folder / "evaluated" / "trained")


def _alpha(asked: Asked) -> float:
    """The pair's own, which AAD's row decodes by."""
    given = dict(asked.model_args)
    return take_settings(given, take_source(given).settings).alpha


def _adopt(asked: Asked, pattern: str, folder: Path) -> None:
    """Take what another row of this kind has found of the start, which all of them begin from."""
    for there in sorted(asked.output.glob(pattern)):
        mine = folder / there.name
        if not mine.is_file():
            write_text(mine, there.read_text(encoding="utf-8"))


def _checkpoint(asked: Asked, folder: Path, note: str, evaluated: Path) -> _Made:
    return _Made({"policy": str(folder), "reference": str(folder), **asked.placement}, note=note, evaluated=evaluated)


def _best_expo(asked: Asked) -> _Made:
    """The scale whose greedy answers the picker prefers on the held-out prompts."""
    pair, scorer = load_pair(**asked.model_args), load_scorer(asked.picker, asked.model_args)
    means = {}
    for scale in asked.scales:
        texts = _answers(asked, pair, asked.held_out_prompts, _Made({}, "expo", {"expo_scale": scale}))
        means[scale] = sum(scorer(asked.held_out_prompts.prompts, texts)) / len(texts)
    best = max(means, key=means.__getitem__)
    note = f"scale {best:g}, picked of {', '.join(f'{scale:g}: {mean:.3f}' for scale, mean in means.items())}"
    return _Made(asked.model_args, "expo", {"expo_scale": best}, note)


def _iterated(asked: Asked, seed: str) -> _Made:
    folder = asked.output / f"iterate-{seed}"
    home = folder / "round-1"
    _adopt(asked, "iterate-*/round-0/evaluation.json", folder / "round-0")
    for there in sorted(asked.output.glob("iterate-*/round-1/synthesis")):  # the seed is the training's
        made = (asked.output / "rows" / f"{there.parent.parent.name}.json").is_file()
        if made and not (home / "synthesis").is_dir():
            with making_folder(home / "synthesis") as part:
                shutil.copytree(there, part, dirs_exist_ok=True)
    steps = max(1, asked.steps * 2 // 3)
    plan = rounds.Plan(
        prompts=asked.prompts, held_out=asked.held_out_prompts, oracle_prompts=asked.oracle_prompts,
        recipe=Recipe("sample", {}, asked.max_new_tokens, Limits(1, True, None), None),
        training=recipes(asked)["iterate"], oracle=asked.oracle, picker=asked.picker,
        trl_arguments=(*_DPO, "--seed", seed, "--max_steps", str(steps)), batch_size=asked.batch_size,
    )  # fmt: skip
    done = rounds.iterate(folder, plan, asked.model_args)[-1]
    note = f"1 round of {done.pairs} pairs, {steps} steps of {_PAIRS}"
    if (home / "policy" / "adapter_config.json").is_file():
        model_args = {"reference": str(home / "start"), "adapter": str(home / "policy"), **asked.placement}
        return _Made(model_args, note=note, evaluated=home)
    return _checkpoint(asked, home / "policy", note, home)


# ---------------------------------------------------------------------------------------------- measures


def _tokens(pair: AlignedPair, prompt: Any, text: str) -> tuple[Tensor, Tensor, int]:
    ids, mask = encode_prompts(pair, [prompt])
    own = pair.tokenizer(text, add_special_tokens=False)["input_ids"]
    answers, kept = right_pad([own or [0]], pair.device)
    return torch.cat([ids, answers], dim=1), torch.cat([mask, kept], dim=1), ids.shape[1]


@torch.no_grad()
def _logits(pair: AlignedPair, role: str, ids: Tensor, mask: Tensor, start: int) -> Tensor:
    keep = ids.shape[1] - start + 1
    with pair.sides.spare(pair.shortcuts):
        (rows,) = pair.sides.logits((role,), whole_text(ids, mask, keep))
    return rows[0, :-1, : pair.vocab_size].float()


def _kl(asked: Asked, pair: AlignedPair, role: str, original: AlignedPair, texts: list[str]) -> float:
    """Mean over tokens of KL(row ‖ policy), in nats, along the row's own answers to the first prompts."""
    total, number = 0.0, 0
    for prompt, text in zip(asked.oracle_prompts.prompts[:_COMPARED], texts, strict=False):
        ids, mask, start = _tokens(original, prompt, text)
        own = _logits(pair, role, ids, mask, start).log_softmax(-1)
        policy = _logits(original, "policy", ids, mask, start).log_softmax(-1)
        total += float((own.exp() * (own - policy)).sum())
        number += len(own)
    return total / number


def _agreement(asked: Asked, pair: AlignedPair, role: str, original: AlignedPair) -> dict[str, Any]:
    """How many of AAD's choices the row makes along AAD's own answers: of all, and where AAD leaves greedy."""
    made = same = left = left_same = 0
    for ids, start, policys in _aads_answers(asked, original):
        tokens = torch.tensor([ids], device=original.device)
        chosen = tokens[0, start:]
        own = chosen if role == "aad" else _logits(pair, role, tokens, torch.ones_like(tokens), start).argmax(-1)
        departs = chosen != torch.tensor(policys, device=chosen.device)
        made, same = made + len(chosen), same + int((own == chosen).sum())
        left, left_same = left + int(departs.sum()), left_same + int((own == chosen)[departs].sum())
    return {"aad_choices": same / max(1, made), "aad_departures": left_same / max(1, left), "steps": made}


def _aads_answers(asked: Asked, original: AlignedPair) -> list[tuple[list[int], int, list[int]]]:
    """Token ids of prompts with AAD's answers, where each answer starts, and what the policy would say at each of its
    tokens; decoded for the first row alone."""
    file = asked.output / "aads_answers.json"
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file():
            write_text(file, json.dumps(_decoded(asked, original)) + "\n")
    return [(ids, start, policys) for ids, start, policys in json.loads(file.read_text(encoding="utf-8"))]


def _decoded(asked: Asked, original: AlignedPair) -> list[tuple[list[int], int, list[int]]]:
    settings, prompts = original.settings.override(strategy="aad"), list(asked.oracle_prompts.prompts[:_COMPARED])
    ids, mask = encode_prompts(original, prompts)
    tokens = decode(original, ids, mask, settings, max_new_tokens=asked.max_new_tokens)
    lengths = answer_lengths(tokens, ids.shape[1], end_ids(original.generation_config.eos_token_id))
    found = []
    for row, kept, length in zip(tokens, mask, lengths, strict=True):
        padding = int((kept == 0).sum())  # (T,) left-padded prompt and answer -> both alone
        alone = row[padding : ids.shape[1] + int(length)][None]
        start = ids.shape[1] - padding
        policys = _logits(original, "policy", alone, torch.ones_like(alone), start).argmax(-1)
        found.append((alone[0].tolist(), start, policys.tolist()))
    return found
