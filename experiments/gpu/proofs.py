"""Does a pair keep its fast paths on this device, and does it give the naive loop's tokens?"""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aad_plugin.pair import proof
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.plain_readings import make_text
from aad_plugin.pair.proof_checks import CHECKS, USES
from aad_plugin.pair.strategies import decode
from experiments.gpu.random_pairs import ARCHITECTURES, SHAPES, build
from experiments.gpu.records import Records

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLOSE = 1e-4  # nats; a choice that is closer may fall either way in float32
STEPS = 12


def run(records: Records, device: str, shapes: list[str]) -> None:
    """Every architecture, size and type; both kinds of pair; tokens where arithmetic is float32."""
    for size, architecture, dtype in itertools.product(shapes, ARCHITECTURES, DTYPES):
        what = f"{architecture} {size} {dtype}"
        if any(f"{what} {kind}" not in records.known for kind in ("lora", "full")) and records.left > 0:
            built: Any = None

            def make(architecture: str = architecture, size: str = size, dtype: str = dtype) -> dict[str, Any]:
                nonlocal built
                built = build(architecture, SHAPES[size], DTYPES[dtype], device, 3.0, 0.1)
                return {}

            records.attempt(f"{what} made", make)
            for kind in ("lora", "full") if built is not None else ():
                pair = getattr(built, kind)
                records.attempt(f"{what} {kind}", partial(_prove, pair))
                if dtype == "float32":
                    records.attempt(f"{what} {kind} tokens", partial(_tokens, pair))


def _prove(pair: AlignedPair) -> dict[str, Any]:
    """What the proof finds, and by how much each check could have failed."""
    texts: list[Any] = [make_text(pair, 0)]
    with torch.no_grad():
        checks = {name: proof._first_difference(pair, [*texts], {name: check}) for name, check in CHECKS.items()}
        uses = {name: proof._first_difference(pair, [*texts], {name: check}) for name, check in USES.items()}
    started = time.monotonic()
    found = pair.prove()
    return {
        "path": found.path, "avoided": list(found.avoided), "status": found.status, "shortcuts": pair.shortcuts,
        "proof_s": round(time.monotonic() - started, 2), "bound": texts[0].bound, "differ": texts[0].differ,
        "failed": {name: said for name, said in {**checks, **uses}.items() if said},
    }  # fmt: skip


def _tokens(pair: AlignedPair) -> dict[str, Any]:
    """How many of the naive loop's choices each way to decode gives."""
    device = pair.sides.policy.device
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, pair.vocab_size, (n,), generator=generator).tolist() for n in (11, 5)]
    ids = torch.tensor([[0] * (11 - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (11 - len(p)) + [1] * len(p) for p in prompts], device=device)
    naive = {name: [_naive(pair, p, name) for p in prompts] for name in ("aad", "greedy")}
    found: dict[str, Any] = {"steps": len(prompts) * STEPS}
    for shortcuts in ("none", "candidates", "lazy", "auto"):
        before, pair.shortcuts = pair.shortcuts, shortcuts
        for name in ("aad", "greedy"):
            settings = pair.settings.override(strategy=name)
            batch = decode(pair, ids, mask, settings, max_new_tokens=STEPS, eos_token_id=None, pad_token_id=0)
            alone = [
                decode(
                    pair, ids[i : i + 1, 11 - len(p) :], mask[i : i + 1, 11 - len(p) :], settings,
                    max_new_tokens=STEPS, eos_token_id=None, pad_token_id=0,
                )
                for i, p in enumerate(prompts)
                if shortcuts in ("none", "auto")
            ]  # fmt: skip
            rows = [row[11:] for row in batch], [row[0, len(p) :] for row, p in zip(alone, prompts, strict=False)]
            verdicts = [_compare(row, *naive[name][i]) for kind in rows for i, row in enumerate(kind)]
            found[f"{name} {shortcuts}"] = "equal" if all(v == "equal" for v in verdicts) else verdicts
        pair.shortcuts = before
    departures = sum(
        int(a != b)
        for one, other in zip(naive["aad"], naive["greedy"], strict=True)
        for a, b in zip(one[0], other[0], strict=True)
    )
    return {**found, "aad_departs_from_greedy": departures}


@torch.no_grad()
def _naive(pair: AlignedPair, prompt: list[int], strategy: str) -> tuple[list[int], list[float]]:
    """Tokens and margins of the loop as it stands in the paper: whole prefixes, one row, float64 scores."""
    text, margins = list(prompt), []
    for _ in range(STEPS):
        rows: list[Tensor] = []
        for role in ("policy", "reference") if strategy == "aad" else ("policy",):
            with pair.sides.role(role) as model:  # type: ignore[arg-type]
                logits = model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0, -1]
                rows.append(logits[: pair.vocab_size].double().log_softmax(-1).cpu())
        scores, distance = rows[0], float("inf")
        if strategy == "aad":
            edge = rows[0].max() + torch.tensor(pair.settings.alpha).double().log()
            distance = float((rows[0] - edge).abs().min())
            scores = torch.where(rows[0] >= edge, rows[0] - rows[1], -torch.inf)
        best = scores.topk(2).values
        margins.append(min(float(best[0] - best[1]), distance))
        text.append(int(scores.argmax()))
    return text[len(prompt) :], margins


def _compare(got: Tensor, wanted: list[int], margins: list[float]) -> str:
    """ "equal", or where it parts from the naive loop and how close that choice was; after a close one nothing is said."""
    for step, (a, b) in enumerate(zip(got.tolist(), wanted, strict=True)):
        if a != b:
            return "equal" if margins[step] < CLOSE else f"step {step}, margin {margins[step]:.2g}"
    return "equal"
