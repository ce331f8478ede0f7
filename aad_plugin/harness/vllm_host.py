"""lm-eval's ``VLLM`` class, also where vLLM's CPU build is installed.

lm-eval 0.4.13 asks for the version of the distribution ``vllm`` when its module is imported and later; the CPU build is a
distribution of another name. While the module is imported, and inside it, that question is answered by either.
"""

from __future__ import annotations

import importlib.metadata

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
    from lm_eval.models.vllm_causallms import VLLM as VLLM  # the name that this module is for
finally:
    importlib.metadata.version = _version
