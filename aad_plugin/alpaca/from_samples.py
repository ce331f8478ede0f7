"""Outputs that exist already: lm-eval's ``samples_*.jsonl``, another ``model_outputs.json``, JSON lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.sources import PLACEHOLDER, Answered
from aad_plugin.errors import ConfigError
from aad_plugin.texts.messages import prompt_hash
from aad_plugin.texts.rows import json_rows
from aad_plugin.texts.saved_answers import read_baseline

_TASK = "aad_alpaca_eval"


class FromSamples:
    """Saved answers; a `Source`.

    Args:
        spec: a file as ``aad judge`` reads it, or a folder with lm-eval's samples of ``aad_alpaca_eval``; ``#strategy``
            behind either where rows hold several answers.
    Raises:
        ConfigError: the file cannot be read, or a row holds several answers and no strategy is named.
    """

    def __init__(self, spec: str):
        self.replies = read_baseline(spec, _TASK)
        path, _, strategy = spec.partition("#")
        self.asked: dict[str, Any] = {"source": "file", "file": Path(path).name, "strategy": strategy}
        self.prompt, self.completions_kwargs = _request(Path(path))
        if strategy:
            self.completions_kwargs["decoding"] = {"strategy": strategy}

    def answer(self, instructions: Sequence[str]) -> list[Answered]:
        """The saved answer to each instruction; "" with a reason where there is none."""
        found = []
        for instruction in instructions:
            replies = self.replies.get(prompt_hash(instruction))
            found.append(Answered(replies[-1]) if replies else Answered("", None, "the file has no answer to it"))
        return found


def _request(path: Path) -> tuple[str, dict[str, Any]]:
    """Prompt template and token budget of lm-eval's first row; nothing known of other files."""
    if not path.is_file():
        return PLACEHOLDER, {}
    try:
        _, row = next(json_rows(path))
    except (StopIteration, ConfigError):
        return PLACEHOLDER, {}
    arguments = row.get("arguments")
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    if not isinstance(first, dict) or not isinstance(first.get("arg_0"), str):
        return PLACEHOLDER, {}
    doc: Any = row["doc"] if isinstance(row.get("doc"), dict) else {}
    prompt = next((doc[name] for name in ("prompt", "instruction") if isinstance(doc.get(name), str)), "")
    # A chat template may strip the instruction.
    text = first["arg_0"].replace(prompt.strip(), PLACEHOLDER, 1) if prompt.strip() else ""
    settings: Any = first["arg_1"] if isinstance(first.get("arg_1"), dict) else {}
    budget = settings.get("max_gen_toks")
    kwargs = {"max_new_tokens": budget} if isinstance(budget, int) else {}
    return text if PLACEHOLDER in text else PLACEHOLDER, kwargs
