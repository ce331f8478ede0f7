"""Was a model of the study trained on the study's own prompts? Warned of where that can be known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from aad_plugin.demo.assets import SHIPPED
from aad_plugin.demo.training_prompts import trained_prompts
from aad_plugin.study.prompts import Prompt, read_prompts
from aad_plugin.texts.messages import as_messages
from aad_plugin.texts.prompts import leak_key

_DEMO = {"oracle": "reward", "picker": "reward", "pair": "policy"}


def _key(prompt: Prompt) -> str:
    return leak_key(as_messages(prompt))


def training_overlaps(prompts: Sequence[Prompt], names: dict[str, str | None], trained_on: Iterable[Path]) -> list[str]:
    """Return one warning per model or file whose training prompts are among the study's.

    Args:
        names: what plays "oracle", "picker" and "pair"; of the demo's models the training prompts are known.
        trained_on: files of prompts or preferences that any of them was trained on.
    Raises:
        ConfigError: a file that holds no prompts.
    """
    demos = {role: str(name).removeprefix("reward:") for role, name in names.items()}
    known = {
        role: {_key(text) for text in trained_prompts(name, _DEMO[role])}
        for role, name in demos.items()
        if name in SHIPPED
    }
    sources = [(f"the {role} ({names[role]}) was trained on", marks) for role, marks in known.items()]
    sources += [(f"{path} holds", {_key(p) for p in read_prompts(str(path))}) for path in trained_on]
    warnings = []
    for what, marks in sources:
        shared = [prompt for prompt in prompts if _key(prompt) in marks]
        if shared:
            warnings.append(
                f"{what} {len(shared)} of the study's {len(prompts)} prompts, first {_shown(shared[0])}: its rewards there "
                "are no test; take them out of --prompts"
            )
    return warnings


def _shown(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    return json.dumps(text, ensure_ascii=False)[:80]
