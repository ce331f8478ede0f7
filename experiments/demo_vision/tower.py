"""First stage: tower and connector learn what stands in each cell, in the words of the base. Plain torch, one process.

A vision transformer drawn at random would need more pictures than a language model can read on a CPU, so it is taught
before it meets one. The token of a cell is pulled towards the sum of the base's embeddings of the colour, the shape and
the place of the thing whose centre lies there, or of "empty" and the place; two linear heads that are thrown away
afterwards name colour and shape. Every picture is shown in its eight turned and mirrored forms.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from aad_plugin.demo.vision_model import GRID
from aad_plugin.tasks.vision.demo.scenes import COLORS, PLACES, SHAPES
from experiments.demo_vision.drawing import Scene, scene

SEEDS = range(1_000_000, 1_012_000)  # drawn for the tower alone
HELD_OUT = range(1_900_000, 1_900_500)
EMPTY = 0  # the class of a cell without a thing; colours and shapes count from 1
STEPS, BATCH, RATE, SAVE_EVERY = 1300, 48, 2e-3, 100


def labels(one: Scene) -> tuple[list[int], list[int]]:
    """Return the classes of the nine cells: colours and shapes."""
    colors, shapes = [EMPTY] * GRID**2, [EMPTY] * GRID**2
    for thing in one.things:
        color, shape = thing.kind
        colors[thing.cell], shapes[thing.cell] = 1 + COLORS.index(color), 1 + list(SHAPES).index(shape)
    return colors, shapes


def pictures(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 96, 96, 3) uint8 pictures and (N, 2, 3, 3) int64 classes: colours and shapes."""
    shown, classes = [], []
    for seed in seeds:
        one = scene(seed)
        shown.append(np.asarray(one.image()))
        classes.append(np.asarray(labels(one)).reshape(2, GRID, GRID))
    return np.stack(shown), np.stack(classes)


def targets(embeddings: Tensor, tokenizer: Any) -> Tensor:
    """Return (8, 7, 9, D): what the token of a cell should be, by colour, shape and place; of embeddings (V, D)."""

    def words(texts: list[str]) -> Tensor:
        ids = [tokenizer(f" {text}", add_special_tokens=False)["input_ids"] for text in texts]
        return torch.stack([embeddings[one].sum(0) / len(one) ** 0.5 for one in ids]).float()

    colors, shapes, places = words(["empty", *COLORS]), words(["empty", *SHAPES]), words(list(PLACES))
    return colors[:, None, None] + shapes[None, :, None] + places[None, None]


def _batches(shown: np.ndarray, classes: np.ndarray, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(seed)
    while True:
        for rows in np.array_split(rng.permutation(len(shown)), len(shown) // BATCH):
            turn, mirror = int(rng.integers(4)), rng.integers(2)
            one, other = np.rot90(shown[rows], turn, (1, 2)), np.rot90(classes[rows], turn, (2, 3))
            if mirror:
                one, other = one[:, :, ::-1], other[:, :, :, ::-1]
            yield pixels(one), torch.from_numpy(other.reshape(len(rows), 2, -1).copy())


def pixels(shown: np.ndarray) -> Tensor:
    """Return (N, 1, 3, 96, 96) float32 as the processor makes it of (N, 96, 96, 3) uint8."""
    return torch.from_numpy(shown.copy()).permute(0, 3, 1, 2)[:, None].float().div_(127.5).sub_(1)


def seen(model: Any, shown: Tensor) -> Tensor:
    """Return (N, 9, D): the tokens of pictures."""
    return torch.stack(list(model.get_image_features(shown).pooler_output))


def train_tower(model: Any, tokenizer: Any, folder: Path, *, steps: int = STEPS, seed: int = 0) -> None:
    """Train tower and connector in place; saves into ``folder``, and goes on from there.

    Args:
        model: as `new_vision_model` makes it. folder: gets tower.pt (weights, optimiser, steps done) and tower.jsonl, the
            log.
    """
    body = model.model
    parts = nn.ModuleDict({"vision_model": body.vision_model, "connector": body.connector})
    width = body.text_model.config.hidden_size
    torch.manual_seed(seed)
    heads = nn.ModuleDict({"colors": nn.Linear(width, 1 + len(COLORS)), "shapes": nn.Linear(width, 1 + len(SHAPES))})
    modules = nn.ModuleDict({"parts": parts, "heads": heads})
    wanted = targets(body.text_model.embed_tokens.weight.detach(), tokenizer)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.08)
    done, saved = 0, folder / "tower.pt"
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["done"]
    if done == steps:
        return
    folder.mkdir(parents=True, exist_ok=True)
    shown, classes = pictures(SEEDS)
    held_out = pictures(HELD_OUT)
    stream, begun = _batches(shown, classes, seed + done), time.process_time()
    for step in range(done + 1, steps + 1):
        loss = _loss(body, heads, wanted, *next(stream))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % SAVE_EVERY and step < steps:
            continue
        state = {"modules": modules, "optimizer": optimizer, "schedule": schedule}
        torch.save(
            {name: part.state_dict() for name, part in state.items()} | {"done": step}, saved.with_suffix(".new")
        )
        saved.with_suffix(".new").replace(saved)
        told = {"step": step, "processor_s": round(time.process_time() - begun), "loss": round(float(loss), 4)}
        with (folder / "tower.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(told | _right(body, heads, *held_out)) + "\n")


def saved_tower(folder: Path) -> dict[str, Tensor]:
    """Return the weights of tower and connector that `train_tower` left, by their names in the whole model."""
    modules = torch.load(folder / "tower.pt", weights_only=True)["modules"]
    start = "parts."
    return {f"model.{name.removeprefix(start)}": value for name, value in modules.items() if name.startswith(start)}


def _loss(body: Any, heads: Any, wanted: Tensor, picture: Tensor, kinds: Tensor) -> Tensor:
    found = seen(body, picture)
    cells = torch.arange(GRID**2)
    aim = wanted[kinds[:, 0], kinds[:, 1], cells]
    far = (found - aim).square().mean() / wanted.var()
    weight = torch.ones(1 + len(COLORS))
    weight[EMPTY] = 0.3  # most cells are empty
    named = functional.cross_entropy(heads["colors"](found).flatten(0, 1), kinds[:, 0].flatten(), weight)
    weight = weight[: 1 + len(SHAPES)]
    return far + named + functional.cross_entropy(heads["shapes"](found).flatten(0, 1), kinds[:, 1].flatten(), weight)


@torch.no_grad()
def _right(body: Any, heads: Any, shown: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Shares of held-out cells with a thing whose colour and shape are named, and of empty ones called empty."""
    found = seen(body, pixels(shown))
    kinds = torch.from_numpy(classes.reshape(len(shown), 2, -1))
    there = kinds[:, 0] != EMPTY
    color, shape = (heads[name](found).argmax(-1) == kinds[:, i] for i, name in enumerate(("colors", "shapes")))
    shares = {"color": color[there], "shape": shape[there], "both": (color & shape)[there], "empty": color[~there]}
    return {name: round(float(value.float().mean()), 4) for name, value in shares.items()}
