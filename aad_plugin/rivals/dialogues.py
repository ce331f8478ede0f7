"""Prompts that are dialogues: rendered turn by turn, by the model's chat template or as plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NAMES = {"system": "System", "user": "Human", "assistant": "Assistant"}


def turns_of(doc: Mapping[str, Any]) -> Sequence[str]:
    """Return the user's turns that the model itself is to answer one after the other; one where there are none."""
    return doc.get("turns") or [""]


def render(
    prompt: Sequence[Mapping[str, str]],
    description: str | None = None,
    system_instruction: str | None = None,
    apply_chat_template: bool = False,
    fewshot_as_multiturn: bool = False,
    chat_template: Callable[..., Any] | None = None,
    gen_prefix: str | None = None,
) -> Any:
    """Render a dialogue; the arguments after ``description`` are those of lm-eval's ``fewshot_context``.

    Returns:
        what the chat template returns, or "Human: … Assistant:" lines without one.
    """
    system = "\n\n".join(text for text in (system_instruction, description) if text)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
    if apply_chat_template and chat_template:
        return chat_template(messages, add_generation_prompt=True)
    lines = [f"{_NAMES[turn['role']]}: {turn['content']}" for turn in messages]
    return "\n\n".join([*lines, "Assistant:" + (f" {gen_prefix}" if gen_prefix else "")])
