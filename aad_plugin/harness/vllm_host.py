"""lm-eval's ``VLLM`` class, also where vLLM's CPU build is installed.

lm-eval 0.4.13 asks for the version of the distribution ``vllm`` when its module is imported and later; the CPU build is a
distribution of another name. While the module is imported, and inside it, that question is answered by either.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from aad_plugin.engine.options import check_vllm

check_vllm()  # in one line what the imports below would say in twenty

# vLLM asks the same question to find out that it is the CPU build: let it, before anything is changed.
from vllm.platforms import current_platform  # noqa: E402

current_platform.device_type  # noqa: B018 - the platform is found out on first use
_version = importlib.metadata.version


def _either_version(distribution_name: str) -> str:
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        return _version(f"{distribution_name}-cpu")


importlib.metadata.version = _either_version
try:
    from lm_eval.models import vllm_causallms
finally:
    importlib.metadata.version = _version


class VLLM(vllm_causallms.VLLM):
    """lm-eval's backend, which renders a chat with what was asked for and with nothing else.

    lm-eval 0.4.13 hands ``enable_thinking=None`` to every template where nobody asked, which some read as False, and drops
    the one that stands in ``chat_template_args``.
    """

    chat_template_args: dict[str, Any]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat by the template that vLLM finds."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt, chat_template=self.hf_chat_template,
                **self.chat_template_args,
            )
        )  # fmt: skip
