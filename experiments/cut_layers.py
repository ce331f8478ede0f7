"""Write a checkpoint without its last decoder layers: a damaged reference for ``aad study --wrong-reference``.

python -m experiments.cut_layers demo 24 runs/demo-24-layers
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer


def main(source: str, layers: str, target: str) -> None:
    """Write the first `layers` decoder layers of `source` (demo, a folder or a hub id), head and tokenizer to `target`."""
    if source == "demo":
        from aad_plugin.demo.assets import base_model_path

        source = str(base_model_path())
    model = AutoModelForCausalLM.from_pretrained(source, num_hidden_layers=int(layers))
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    print(f"{target}: the first {model.config.num_hidden_layers} layers of {source}")


if __name__ == "__main__":
    main(*sys.argv[1:])
