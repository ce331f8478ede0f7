"""vLLM's command line as a user writes it: which options stand there, and mappings in any spelling that vLLM reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError

_OWN = ("model", "tokenizer", "hf-overrides", "override-generation-config", "served-model-name", "worker-extension-cls")


def named(given: Sequence[str]) -> set[str]:
    """Return the names of all options given, dashes inside and none before, those of a ``--config`` file among them.

    Raises:
        ConfigError: a file that cannot be read, or that names what a pair sets itself.
    """
    found = {_name(word) for word in given if word.startswith("-")}
    in_file = _of_file(given)
    for name in in_file:
        if name in _OWN:
            raise ConfigError(
                f"the --config file names {name}, which a pair sets itself: write what is yours of it on the command line"
            )
    return found | in_file


def has_drafts(given: Sequence[str]) -> bool:
    """Whether tokens are guessed ahead: --speculative-config, -sc, --spec-method and the like."""
    return any(name.startswith("spec") or name == "sc" for name in named(given))


def taken(given: Sequence[str], option: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return an option's mapping, or None, and the arguments without it.

    Args:
        option: such as ``--hf-overrides``; read as JSON (``--option=JSON``) and by parts (``--option.key value``).
    Raises:
        ConfigError: no JSON object, or a part that is appended to.
    """
    found: dict[str, Any] | None = None
    rest: list[str] = []
    words = iter(given)
    for word in words:
        name, equals, text = word.partition("=")
        name, _, path = name.partition(".")
        if name.replace("_", "-") != option:
            rest.append(word)
            continue
        value = text if equals else next(words, "")
        found = found or {}
        if path:
            _put(found, path.split("."), value, option)
        else:
            found |= _mapping(value, option)
    return found, rest


def _mapping(text: str, option: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{option} must be a JSON object, got {text!r}")
    return found


def _put(into: dict[str, Any], path: Sequence[str], text: str, option: str) -> None:
    *parents, last = path
    if last.endswith("+"):
        raise ConfigError(f"{option}.{'.'.join(path)} appends: pass {option} as one JSON object")
    for name in parents:
        into = into.setdefault(name, {})
    try:
        into[last] = json.loads(text)
    except ValueError:
        into[last] = text


def _name(word: str) -> str:
    return word.partition("=")[0].partition(".")[0].lstrip("-").replace("_", "-")


def _of_file(given: Sequence[str]) -> set[str]:
    """Names of the options in a ``--config`` file."""
    import yaml

    if "--config" not in given[:-1]:  # vLLM reads no other spelling
        return set()
    path = Path(given[given.index("--config") + 1])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the --config file {str(path)!r}: {error}") from error
    return {_name(str(key)) for key in content} if isinstance(content, dict) else set()
