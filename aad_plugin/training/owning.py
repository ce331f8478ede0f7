"""A folder that one training run holds, what it was asked, and memory that one model gives back to the next."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.files.run_folder import read_account, refuse_other_run
from aad_plugin.files.whole import write_text
from aad_plugin.texts.rendering import settled, shortest_context, without_template
from aad_plugin.training.recipes import read_recipe
from aad_plugin.training.trl_command import Drawn, check_options, end_orphans, option_name


def free() -> None:
    """Give back what a model held, which TRL and the next model need."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def owned(folder: Path, command: str) -> Iterator[None]:
    """Hold the folder: two runs in it would train into one output.

    Args:
        command: ``aad``'s, for the message.
    Raises:
        ConfigError: another run holds it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another aad {command} is at work in {folder}: wait for it, or pass another --output"
        ) from error
    except OSError as error:
        if error.errno is None:  # of the hub's client, not of the disk
            raise ConfigError(first_line(error)) from error
        raise ConfigError(f"cannot write {folder}: {error.strerror or error}") from error


def take_up(
    folder: Path,
    asked: dict[str, Any],
    what: str,
    command: str,
    training: Path,
    *,
    more: Sequence[str],
    num_prompts: int,
) -> Drawn:
    """Begin a run in a folder that is held, or go on with it: keep what was asked, end orphans, check TRL's options.

    Args:
        asked: what decides the outcome. what: names another such run, for the message.
        command: TRL's. training: its recipe. more: further options of it. num_prompts: that are trained on.
    Returns:
        what TRL will draw.
    Raises:
        ConfigError: the folder holds training that was asked for otherwise, TRL does not take the options, or the prompts
        do not fill a batch.
    """
    refuse_settings(command, training, more)
    there = read_account(folder / "asked.json")
    if there and (folder / "training").is_dir():
        refuse_other_run(folder, there, asked, dict.fromkeys(asked, what))
    elif there != json.loads(json.dumps(asked, default=str)):
        shutil.rmtree(folder / "start", ignore_errors=True)  # merged of a pair that was asked before, and not trained
    write_text(folder / "asked.json", json.dumps(asked, indent=2, default=str) + "\n")
    end_orphans(folder)
    drawn = check_options(command, ["--config", str(training), "--output_dir", str(folder), *more])
    if drawn.prompts and num_prompts < drawn.prompts:
        raise ConfigError(
            f"--prompts holds {num_prompts} and one batch of this recipe takes {drawn.prompts}, so that TRL would train on "
            'none: pass more prompts, or lower per_device_train_batch_size and gradient_accumulation_steps (--trl "…")'
        )
    return drawn


_NOT_THEIRS = {
    "chat_template_kwargs": "is read by TRL alone: pass --model-args enable_thinking=false, or chat_template_args, which "
    "the pair and TRL read",
    "datasets": "names other data than this command's prompts and pairs",
    "model_revision": "is read by TRL alone: evaluation, merging and the reference read the main revision",
    "reward_model_name_or_path": "would add a reward that the results do not tell of; --reward is what is optimised",
    "reward_funcs": "is set by --recipe and --reward",
}
"""Settings of TRL's with which it would train on, or from, something else than is reported."""


def refuse_settings(command: str, training: Path, more: Sequence[str]) -> None:
    """Raise ConfigError for settings, in a recipe or among further options, that are this package's to make.

    Args:
        command: TRL's. training: the recipe. more: further options.
    """
    own = {**_NOT_THEIRS, **({"beta": "is set by --divergence"} if command == "distillation" else {})}
    for name in [*read_recipe(training), *(option_name(word) for word in more if word.startswith("--"))]:
        if name in own:
            raise ConfigError(f"{name} {own[name]}: leave it out of the recipe and of --trl")


_COUNT_PADDING = ("gpt2", "gpt_neo", "gpt_bigcode", "openai-gpt", "ctrl")


def refuse_counted_padding(checkpoint: str) -> None:
    """Raise ConfigError for a model that takes the padding of shorter prompts for places of the text where nobody tells it
    its positions, as TRL's losses do not (1.16)."""
    from transformers import AutoConfig

    kind = AutoConfig.from_pretrained(checkpoint).model_type
    if kind in _COUNT_PADDING:
        raise ConfigError(
            f"{checkpoint} is of type {kind}, whose learned positions TRL counts from the padding: it would be trained at "
            "other places than it decodes at; aad distill --teacher aad and aad iterate train such models"
        )


SECRETS = ("token", "proxies")
_SECRET_ARGS = "AAD_PLUGIN_SECRET_ARGS"


def without_secrets(model_args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return model_args fit to be written down, and the environment in which `with_secrets` finds the others again."""
    plain = {name: value for name, value in model_args.items() if name not in SECRETS}
    secret = {name: model_args[name] for name in SECRETS if name in model_args}
    return plain, {_SECRET_ARGS: json.dumps(secret)} if secret else {}


def with_secrets(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """What `without_secrets` took apart, in the process that it was started for."""
    return {**model_args, **json.loads(os.environ.get(_SECRET_ARGS) or "{}")}


def refuse_cut_pairs(
    prompts: Sequence[list[dict[str, str]]], tokenizer: Any, template_args: dict[str, Any], new_tokens: int, length: int
) -> None:
    """Raise ConfigError for a prompt whose pair may be longer than what TRL trains on; arguments as of `write_rows`.

    Args:
        length: the recipe's ``max_length``, beyond which TRL drops a pair or leaves out the end of its answers.
    """
    for number, found in enumerate(_lengths(_rendered(prompts, tokenizer, template_args)[1], tokenizer), 1):
        if found + new_tokens > length:
            needed = found + new_tokens
            raise ConfigError(
                f"prompt {number} of --prompts has {found} tokens; with {new_tokens} of an answer it exceeds max_length="
                f'{length}, beyond which TRL cuts or drops pairs: raise it (--trl "--max_length {needed}"), or leave the '
                "prompt out"
            )


def _rendered(
    prompts: Sequence[list[dict[str, str]]], tokenizer: Any, template_args: dict[str, Any]
) -> tuple[list[Any], list[str]]:
    """Prompts as rows that TRL takes, and as the texts that it makes of them."""
    rows: list[Any] = [without_template(prompt) for prompt in prompts]
    if not tokenizer.chat_template:
        return rows, rows
    options = {"tokenize": False, "add_generation_prompt": True, **template_args}
    render = functools.partial(tokenizer.apply_chat_template, **options)
    rows = [settled(render, prompt, f"prompt {number}") for number, prompt in enumerate(prompts, 1)]
    return rows, [render(row) for row in rows]


def _lengths(texts: Sequence[str], tokenizer: Any) -> Iterator[int]:
    """Tokens of each text."""
    for text in texts:
        yield len(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])


def write_rows(
    path: Path,
    prompts: Sequence[list[dict[str, str]]],
    tokenizer: Any,
    template_args: dict[str, Any],
    *,
    context: int | None = None,
    new_tokens: int = 0,
) -> None:
    """Write prompts as the rows that TRL reads, so that it renders them as the pair does.

    Args:
        prompts: lists of chat messages. tokenizer: the student's; without a chat template the rows are plain text, and a
            system turn that its template refuses opens the user's. template_args: of its chat template.
        context: tokens that the student was made for; None where nobody tells. new_tokens: that an answer may have.
    Raises:
        ConfigError: the template takes no such conversation, or a prompt leaves no room for an answer: TRL would train on
            places that the student has never seen.
    """
    rows, texts = _rendered(prompts, tokenizer, template_args)
    for number, length in enumerate(_lengths(texts if context else [], tokenizer), 1):
        if context and length + new_tokens > context:
            raise ConfigError(
                f"prompt {number} of --prompts has {length} tokens; with {new_tokens} of an answer it exceeds the context "
                f"of {context}: shorten it or leave it out, or lower max_completion_length"
            )
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(json.dumps({"prompt": row}, ensure_ascii=False) + "\n" for row in rows))


def merging_dtype(model_args: Mapping[str, Any], training: Path, more: Sequence[str]) -> str:
    """Return the dtype in which adapters are merged for a training and after it: the pair's, or else the training's.

    A base in 16 bits cannot hold what most adapters add to it: rounded, a good part of a small update is lost.

    Args:
        model_args: the pair's; "auto" leaves it to the training. training: TRL's recipe. more: further options of it.
    Returns:
        a name of torch's, or "auto", the base's own.
    """
    words = [part for word in more for part in word.split("=", 1)]
    option = words[words.index("--dtype") + 1 :][:1] if "--dtype" in words else [read_recipe(training).get("dtype")]
    found = (str(name or "auto").removeprefix("torch.") for name in (model_args.get("dtype"), *option))
    return next((name for name in found if name != "auto"), "auto")


def context_of(*checkpoints: str) -> int | None:
    """Return the tokens that all of these checkpoints can read; None where none tells."""
    from transformers import AutoConfig

    return shortest_context(AutoConfig.from_pretrained(checkpoint) for checkpoint in checkpoints)


def template_words(template_args: dict[str, Any]) -> list[str]:
    """Return TRL's option for the arguments of chat templates; none for no arguments."""
    return ["--chat_template_kwargs", json.dumps(template_args)] if template_args else []
