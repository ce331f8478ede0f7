"""Which model_args do not belong to the key of an answer, each with its reason. Every other one does.

A model_arg that is forgotten here costs a repeated answer. One that is listed wrongly would hand a run another
model's answers, so a name is added only with a reason that holds for every value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aad_plugin.settings import SETTING_NAMES
from aad_plugin.sources.parts import PART_NAMES

_ELSEWHERE = "the parts that it stands for are in the account by themselves, with marks of their weights"
_PER_REQUEST = "a setting of decoding is in the key of each answer, for the strategies that read it"
_PLACE = "it says from where files are fetched; marks of the weights say which arrived"
_SECRET = "it is a secret that must not be written down, and it only opens the way to files"
_WAIT = "it says how the run is shown or stored"

NEUTRAL: dict[str, str] = {
    **dict.fromkeys(("pair", "pretrained", *PART_NAMES), _ELSEWHERE),
    **dict.fromkeys(SETTING_NAMES, _PER_REQUEST),
    **dict.fromkeys(("token", "use_auth_token", "hf_token"), _SECRET),
    **dict.fromkeys(("cache_dir", "download_dir", "force_download", "local_files_only", "proxies"), _PLACE),
    "answers_dir": _WAIT,
    "trace": "it says where to write what was read at each token; the tokens are the same",
    "loglikelihood": "it scores given choices and decodes nothing; lm-eval's cache has it in its own key",
    "batch_size": "which prompts share a forward is no part of a question; a run may go on with another batch size",
    "max_batch_size": "see batch_size",
    "device": "the account says on which kind of device the weights lie; a process's number says nothing",
    "reference_device": "see device",
}


def telling(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return, JSON-able, the given model_args that can change an answer: all that are not listed as neutral."""
    given = {name: value for name, value in model_args.items() if value is not None and name not in NEUTRAL}
    return {name: _plain(value) for name, value in sorted(given.items())}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    # An object whose text holds its address would be another one in every process; its class is what lasts.
    text = str(value)
    return type(value).__qualname__ if f"{id(value):x}" in text else text
