"""Losses that TRL has a trainer for and no command: ORPO and SimPO, with the options of its other commands.

python -m aad_plugin.training.experimental orpo --config RECIPE --model_name_or_path … --dataset_name … --output_dir …
"""

from __future__ import annotations

import os
import sys
from typing import Any

COMMANDS = ("orpo", "simpo")


def make_parser(prog: str | None = None, command: str = "orpo") -> Any:
    """Return TRL's parser of script, training and model options."""
    from trl import ModelConfig, ScriptArguments, TrlParser

    return TrlParser((ScriptArguments, _classes(command)[0], ModelConfig), prog=prog)


def train(command: str, words: list[str]) -> None:
    """Train, go on from a checkpoint, save; blocks.

    Args:
        command: one of :data:`COMMANDS`. words: as on a shell.
    """
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import get_peft_config

    script, training, model = make_parser(f"trl {command}", command).parse_args_and_config(
        words, fail_with_unknown_args=False
    )
    _, trainer_class = _classes(command)
    options = {"revision": model.model_revision, "dtype": model.dtype, "attn_implementation": model.attn_implementation}
    tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path, revision=model.model_revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    data = load_dataset(script.dataset_name, name=script.dataset_config)
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(model.model_name_or_path, **options),
        args=training,
        train_dataset=data[script.dataset_train_split],
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model(training.output_dir)


def _classes(command: str) -> tuple[type, type]:
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    if command == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        return ORPOConfig, ORPOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return CPOConfig, CPOTrainer


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        train(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(f"expected one of {', '.join(COMMANDS)}, got {sys.argv[1:2]}")
