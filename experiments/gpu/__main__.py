"""``python -m experiments.gpu --minutes 8``: proofs, tokens, forced choices and speed on the device at hand."""

from __future__ import annotations

import json
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments.gpu import forced, proofs, table
from experiments.gpu.random_pairs import SHAPES
from experiments.gpu.records import Records

PARTS = ("proofs", "transformers", "forced")


def main(
    minutes: Annotated[float, typer.Option(help="In all; a part that has no time left says so.")] = 8,
    parts: Annotated[str, typer.Option(help="Parts, separated by commas.")] = ",".join(PARTS),
    shape: Annotated[str, typer.Option(help=f"Of the speed table: {', '.join(SHAPES)}.")] = "3b",
    proof_shapes: Annotated[str, typer.Option(help="Of the proofs, separated by commas.")] = "tiny,mid",
    forced_shape: Annotated[str, typer.Option(help="Of the forced choices.")] = "1b",
    batches: Annotated[str, typer.Option(help="Rows decoded together, separated by commas.")] = "1,8",
    tokens: Annotated[int, typer.Option(help="New tokens per answer.")] = 32,
    dtype: Annotated[str, typer.Option(help="Of the speed table and the forced choices.")] = "bfloat16",
    folder: Annotated[
        Path, typer.Option("--output", help="Figures, one file a part; what is there is not made again.")
    ] = Path("runs/gpu"),
) -> None:
    """Measure pairs of random weights on a GPU (or, to rehearse, on a CPU with --shape tiny)."""
    chosen = [part for part in parts.split(",") if part]
    unknown = [part for part in chosen if part not in PARTS]
    if unknown or shape not in SHAPES or forced_shape not in SHAPES:
        raise typer.BadParameter(f"parts are {', '.join(PARTS)}, shapes {', '.join(SHAPES)}; got {parts!r}, {shape!r}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    end = time.monotonic() + 60 * minutes
    print(json.dumps({"part": "machine", **_machine(device)}), flush=True)
    for number, part in enumerate(chosen):
        share = (end - time.monotonic()) / (len(chosen) - number)
        # The proofs take what they need, a minute; the others share what is left.
        records = Records(folder, part, end if part == "proofs" else time.monotonic() + share)
        kind = getattr(torch, dtype)
        if part == "proofs":
            proofs.run(records, device, proof_shapes.split(","))
        elif part == "transformers":
            table.run(records, device, shape, [int(b) for b in batches.split(",")], tokens, kind)
        else:
            forced.run(records, device, forced_shape, 8, min(tokens, 32), kind)


def _machine(device: str) -> dict[str, Any]:
    names = ("torch", "transformers", "peft", "accelerate", "tokenizers", "vllm", "triton")
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    typer.run(main)
