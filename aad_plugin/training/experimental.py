"""Losses that TRL has a trainer for and no command: ORPO and SimPO, with the options of its other commands.

python -m aad_plugin.training.experimental orpo --config RECIPE --model_name_or_path … --dataset_name … --output_dir …
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
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
    trainer = make_trainer(command, words)
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model(trainer.args.output_dir)


def make_trainer(command: str, words: list[str]) -> Any:
    """Load model, tokenizer and data into TRL's trainer. As in TRL's other commands, the chat template says how an answer
    ends: its trainers of these losses would add an end token to every answer, those that are meant to go on included.
    """
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import get_peft_config, is_conversational

    from aad_plugin.sources.whole_weights import load_whole

    script, training, model = make_parser(f"trl {command}", command).parse_args_and_config(
        words, fail_with_unknown_args=False
    )
    _, trainer_class = _classes(command)
    options = {"revision": model.model_revision, "dtype": model.dtype, "attn_implementation": model.attn_implementation}
    tokenizer = AutoTokenizer.from_pretrained(model.model_name_or_path, revision=model.model_revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    data = datasets.load_dataset(script.dataset_name, name=script.dataset_config)[script.dataset_train_split]
    datasets.disable_caching()  # tokens are kept by the name of the function that made them, whatever it calls
    home = sys.modules[trainer_class.__module__]
    with _replaced(home, "add_eos_token_if_needed", _left_alone if is_conversational(data[0]) else None):
        return trainer_class(
            model=load_whole(AutoModelForCausalLM, model.model_name_or_path, **options),
            args=training,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=get_peft_config(model),
        )


def _left_alone(eos_token_id: int, chosen: Any, rejected: Any) -> tuple[Any, Any]:
    return chosen, rejected


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for a module's name meanwhile, None for its own; AttributeError where it has no such name any more."""
    own = getattr(module, name)
    setattr(module, name, value or own)
    try:
        yield
    finally:
        setattr(module, name, own)


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
