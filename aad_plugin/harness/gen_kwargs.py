"""gen_kwargs of one request: which choose the strategy, which go on to ``generate``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from transformers import GenerationConfig

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.settings import SETTING_NAMES, DecodingSettings

_SAMPLING = ("temperature", "top_p")
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens", "max_length")
# What some of transformers' words say where they ask for nothing.
_NOTHING_ASKED = {"num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "use_cache": True}
_GENERATE = frozenset(vars(GenerationConfig())) | {"do_sample", "use_cache", "assistant_model"}


def split_gen_kwargs(
    gen_kwargs: Mapping[str, Any], defaults: DecodingSettings, own_words: Collection[str] = ()
) -> tuple[DecodingSettings, int, dict[str, Any]]:
    """Split one request's gen_kwargs.

    Args:
        gen_kwargs: as the task or ``--gen_kwargs`` wrote them, raw or normalised by lm-eval.
        defaults: the model's settings; a request overrides them. own_words: names that the host takes besides.
    Returns:
        the request's settings, its sample number (0, or k for the k-th repeat), and what ``generate`` gets.
        ``temperature`` and ``top_p`` belong to the strategy where it samples. Elsewhere they take effect only with
        ``do_sample=true``, which a temperature above 0 stands for where nothing else is said, as in lm-eval; its customary
        ``temperature=0`` says nothing that the strategy has not said.
    Raises:
        ConfigError: an unknown name, or a setting out of range.
    """
    rest = dict(gen_kwargs)
    sample = int(rest.pop("sample", 0))
    changes = {name: rest.pop(name) for name in SETTING_NAMES if name in rest and name not in _SAMPLING}
    settings = defaults.override(**changes)
    for name in ("temperature", "max_gen_toks"):
        _check_number(name, rest.get(name))
    draws = rest.get("do_sample")
    if draws not in (None, True, False):  # 1 and 0, too, as lm-eval reads them from a command line
        raise ConfigError(f"do_sample must be true or false, got {draws!r}")
    if draws is None:  # lm-eval's reading, before and after it has normalised a request
        draws = float(rest.get("temperature") or 0.0) > 0
    draws = bool(draws) and float(rest.get("temperature", 1.0)) > 0
    sampling = {name: rest.pop(name) for name in _SAMPLING if name in rest}
    rest.pop("do_sample", None)
    if settings.samples:
        # lm-eval writes temperature 0 into every request that does not sample by itself.
        settings = settings.override(
            **{n: v for n, v in sampling.items() if not (n == "temperature" and float(v) == 0)}
        )
    elif draws:
        rest.update(do_sample=True, **sampling)
    if "stop_strings" in rest:
        raise ConfigError("stop_strings is transformers' word: lm-eval's is until=[…]")
    for name in rest:
        if name not in (*_GENERATE, *_LENGTHS, *own_words, "until"):
            names = [*SETTING_NAMES, *_GENERATE, *_LENGTHS, *own_words, "until"]
            raise ConfigError(f"unknown gen_kwarg {name!r}{nearest(name, names)}")
    return settings, sample, rest


def vllm_options(options: Mapping[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """Return what :func:`split_gen_kwargs` leaves for a host, as vLLM takes it.

    Args:
        taken: the names of vLLM's sampling parameters.
    Raises:
        ConfigError: an option of transformers' ``generate`` that vLLM has not, and that asks for something.
    """
    own = dict(options)
    if "min_new_tokens" in own:
        own["min_tokens"] = own.pop("min_new_tokens")  # transformers' word, vLLM's word
    foreign = [name for name in own if name not in (*taken, *_LENGTHS, "until", "do_sample")]
    for name in foreign:
        value = own.pop(name)
        if value is not None and value != _NOTHING_ASKED.get(name):
            raise ConfigError(f"{name}={value!r} is for --model aad: vLLM has no such option, leave it out")
    return own


def _check_number(name: str, value: Any) -> None:
    least = 0 if name == "temperature" else 1
    try:
        if value is None or float(value) >= least:
            return
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{name} must be a number of at least {least}, got {value!r}")
