"""What a pair's proof costs beside loading it: the demo pair, and a random Llama of 8 layers and hidden size 1024.

    OMP_NUM_THREADS=2 python -m experiments.proof_cost      # prints a table; about two minutes

The first load of a pair proves it; the second finds the proof remembered and pays for the mark over all weights alone.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.sources.parts import resolve
from tests.toys import VOCAB, byte_tokenizer


def checkpoints(folder: Path) -> dict[str, dict[str, str]]:
    """Write two random checkpoints and an adapter; return the parts of two pairs."""
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8, num_attention_heads=16,
        num_key_value_heads=16, bos_token_id=None, eos_token_id=256, pad_token_id=257,
    )  # fmt: skip
    for name in ("reference", "policy"):
        model = LlamaForCausalLM(config)
        model.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    adapted.save_pretrained(folder / "adapter")
    policy, reference, adapter = (str(folder / name) for name in ("policy", "reference", "adapter"))
    return {
        "8 layers of 1024, two checkpoints": {"policy": policy, "reference": reference},
        "8 layers of 1024, LoRA": {"reference": policy, "adapter": adapter},
    }


def measure(parts: dict[str, str]) -> tuple[float, float, AlignedPair]:
    """Return the seconds of a load without its proof, of the proof, and the pair."""
    os.environ["AAD_PLUGIN_PROOF"] = "0"
    start = time.perf_counter()
    pair = load_pair(**parts)  # type: ignore[arg-type]
    loaded = time.perf_counter() - start
    del os.environ["AAD_PLUGIN_PROOF"]
    start = time.perf_counter()
    pair.prove()
    return loaded, time.perf_counter() - start, pair


def main() -> None:
    """Print one row per pair."""
    demo = resolve("demo").arguments()  # fetched and converted, if it was not
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AAD_CACHE_DIR"] = str(Path(folder) / "cache")  # nothing is remembered from earlier
        load_pair(**demo)  # type: ignore[arg-type]  # libraries imported, files read
        print("| pair, float32 | weights | load | proof, first load | second load |\n|---|---|---|---|---|")
        for name, parts in {"demo": demo, **checkpoints(Path(folder))}.items():
            parts = {**parts, "dtype": "float32"}
            loaded, first, pair = measure(parts)
            assert pair.proof is not None and pair.proof.status == "proven", pair.proof
            _, second, again = measure(parts)
            assert again.proof is not None and again.proof.status == "remembered", again.proof
            millions = sum(weight.numel() for weight in pair.parameters()) / 1e6
            print(
                f"| {name} ({pair.proof.path}) | {millions:.0f} M | {loaded:.1f} s | {first:.2f} s | {second:.2f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
