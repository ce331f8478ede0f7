"""A draft for the demo pair: a few layers of its base and a head over frequent tokens, taught what the pair chooses.

    python -m experiments.demo_pair.draft texts --work runs/draft --minutes 3      # again until it says "whole"
    python -m experiments.demo_pair.draft train --work runs/draft --minutes 25     # goes on from its checkpoint
    aad generate "Hello" --pair demo --model-args draft_model=runs/draft/out

Learns from the pair's own answers to the recipe's training prompts and from its choices along their preferred answers.
Only low-rank changes of the layers and of the head are trained, with plain cross entropy in float32.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from aad_plugin.pair.cut_draft import ACCOUNT, WEIGHTS, cut, linear_layers, shape_of
from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.tasks.demo.dialogue import load as demo_prompts
from experiments.demo_pair.prompts import load_prompts
from experiments.demo_pair.shipped import shipped_pairs
from experiments.draft_texts import ChosenText, agreements, choose_along, decode_texts, load_texts

TEXTS = "texts.jsonl"
LAYERS, RANK, FREQUENT = (0, 1, 29), 64, 4096
HELD_OUT = 40  # prompts of the demo task
EPOCHS, BATCH, RATE, WARM = 12, 16, 2e-3, 40


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("texts", "train"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pair", default="demo")
    parser.add_argument("--minutes", type=float, default=25.0, help="after which no new batch is begun")
    parser.add_argument("--along", type=int, default=400, help="preferred answers to read choices along")
    parser.add_argument("--layers", default=",".join(map(str, LAYERS)))
    parser.add_argument("--frequent", type=int, default=FREQUENT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    options.work.mkdir(parents=True, exist_ok=True)
    pair = load_pair(options.pair, dtype="float32")
    if options.stage == "texts":
        whole = write_texts(pair, options.pair, options.work / TEXTS, until, options.along)
        print("whole" if whole else "goes on", f"{len(load_texts(options.work / TEXTS))} texts")
    else:
        train(pair, options, until)


def write_texts(pair: AlignedPair, preset: str, path: Path, until: float, along: int) -> bool:
    """Append what is missing; return whether nothing is."""
    held_out = [(f"demo-{i}", prompt, True) for i, prompt in enumerate(held_out_prompts())]
    own = [(prompt.id, prompt.text, False) for split in ("policy", "reward") for prompt in load_prompts(split)]
    if not (decode_texts(pair, held_out, path, until) and decode_texts(pair, own, path, until)):
        return False
    found = [p for split in ("policy", "reward") for p in shipped_pairs(preset, split)]
    texts = list(dict.fromkeys((p.prompt, p.chosen) for p in found if p.chosen_tokens >= 12))
    random.Random(0).shuffle(texts)
    answers = [(f"along-{i}", prompt, answer) for i, (prompt, answer) in enumerate(texts[:along])]
    return choose_along(pair, answers, path, until)


def held_out_prompts() -> list[str]:
    """The demo task's first prompts, none of which is a training prompt of the pair."""
    path = Path(demo_prompts.__file__).with_name("prompts.jsonl")
    return [json.loads(line)["prompt"] for line in path.read_text("utf-8").splitlines()][:HELD_OUT]


class _LowRank(nn.Module):
    """A linear layer with a trained change of low rank."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(rank, linear.in_features) * linear.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + F.linear(F.linear(x, self.down), self.up)


def train(pair: AlignedPair, options: argparse.Namespace, until: float) -> None:
    """Train until the epochs or the minutes are over; write a checkpoint at each epoch and the draft at the end."""
    torch.manual_seed(0)
    texts = load_texts(options.work / TEXTS)
    learned, held_out = [t for t in texts if not t.held_out], [t for t in texts if t.held_out]
    ids = _frequent(learned, options.frequent)
    layers = [int(layer) for layer in options.layers.split(",")]
    with pair.sides.role("reference") as base:
        model, shape = cut(base, layers, ids), shape_of(base.config)
    changed = _make_trainable(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    state = options.work / "checkpoint.pt"
    first = 0
    if state.exists():
        saved = torch.load(state)
        for parameter, value in zip(parameters, saved["parameters"], strict=True):
            parameter.data.copy_(value)
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"] + 1
    steps, started = -(-len(learned) // BATCH), time.monotonic()
    for epoch in range(first, options.epochs):
        order = random.Random(epoch).sample(learned, len(learned))
        for step in range(steps):
            if time.monotonic() > until:
                print(f"time is over in epoch {epoch + 1} of {options.epochs}: run it again")
                return
            done = epoch * steps + step
            rate = RATE * min(1, (done + 1) / WARM) * max(0.05, 1 - done / (steps * options.epochs))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _loss(model, order[step * BATCH : (step + 1) * BATCH], ids)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        saved = {"parameters": [p.data for p in parameters], "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(saved, state)
        agreed = measure(model, ids, held_out)
        print(f"epoch {epoch + 1}: loss {loss.item():.2f}, agreement {agreed:.3f}, {time.monotonic() - started:.0f} s")
    _save(options.work / "out", changed, model, ids, {"layers": layers, "rank": RANK, "base": shape})


def _frequent(texts: list[ChosenText], number: int) -> Tensor:
    """Return the ids that are chosen most often, then those that the prompts and answers hold, in ascending order."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(dict.fromkeys(text.prompt + text.answer, 1))
        counts.update({token: 1000 for token in text.choices})
    ids = [token for token, _ in counts.most_common(number)]
    return torch.tensor(sorted(ids))


def _make_trainable(model: Any) -> dict[str, _LowRank]:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.base_model.norm.weight.requires_grad_(True)
    changed = {}
    for name, linear in list(linear_layers(model)):
        parent, _, own = f"base_model.layers.{name}".rpartition(".") if name != "head" else ("", "", "lm_head")
        changed[name] = _LowRank(linear, RANK)
        owner = model.get_submodule(parent.replace("base_model", model.base_model_prefix)) if parent else model
        setattr(owner, own, changed[name])
    return changed


def _loss(model: Any, texts: list[ChosenText], ids: Tensor) -> Tensor:
    width = max(len(t.prompt) + len(t.answer) for t in texts)
    tokens, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    targets = torch.full((len(texts), width), -100)
    place = torch.full((int(ids.max()) + 1,), -100)
    place[ids] = torch.arange(len(ids))
    for row, text in enumerate(texts):
        whole = text.prompt + text.answer
        tokens[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), 1
        chosen = torch.tensor(text.choices)
        known = torch.where(chosen < len(place), place[chosen.clamp(max=len(place) - 1)], -100)
        targets[row, len(text.prompt) - 1 : len(text.prompt) - 1 + len(chosen)] = known
    hidden = model.base_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    where = targets != -100
    return F.cross_entropy(model.lm_head(hidden[where]), targets[where])


@torch.no_grad()
def measure(model: Any, ids: Tensor, texts: list[ChosenText]) -> float:
    """Return the share of the pair's choices that are the draft's favourite, along the pair's own text."""
    found: list[bool] = []
    for text in texts:
        logits = model(input_ids=torch.tensor([text.prompt + text.answer])).logits[0]
        found += agreements(logits, text, ids)[0]
    return sum(found) / max(1, len(found))


def _save(folder: Path, changed: dict[str, _LowRank], model: Any, ids: Tensor, account: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stored = {"ids": ids.int(), "norm": model.base_model.norm.weight.data.half()}
    for name, layer in changed.items():
        stored[f"down.{name}"], stored[f"up.{name}"] = layer.down.data.half(), layer.up.data.half()
    save_file({name: value.contiguous() for name, value in stored.items()}, folder / WEIGHTS)
    (folder / ACCOUNT).write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")
    print(f"{folder}: {(folder / WEIGHTS).stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
