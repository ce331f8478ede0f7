"""Rules for a model's ``configs.yaml`` and its prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from aad_plugin.alpaca.findings import Finding
from aad_plugin.alpaca.layout import Layout
from aad_plugin.alpaca.sources import PLACEHOLDER

_NEEDED = ("prompt_template", "fn_completions", "completions_kwargs")
_SECRET = re.compile(r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,})|^\s*api_key:\s*\S{8,}", re.M)


def lint_config(layout: Layout, name: str) -> Iterator[Finding]:
    """Findings on one model's configuration."""
    import yaml

    path = layout.config(name)
    place = path.relative_to(layout.root).as_posix()
    if not path.is_file():
        yield Finding(
            "error", "missing-file", place, "the file is missing: upstream's CI looks each row's model up there"
        )
        return
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield Finding("error", "config", place, f"not YAML: {str(error).splitlines()[0]}")
        return
    if _SECRET.search(text):
        yield Finding("error", "secret", place, "the file holds what looks like an API key: take it out, and revoke it")
    keys = list(content) if isinstance(content, dict) else []
    if keys != [name]:
        found = ", ".join(map(str, keys)) or type(content).__name__
        yield Finding("error", "config", place, f"its only top key must be {name!r} as its folder is, got {found}")
        return
    config = content[name]
    if not isinstance(config, dict):
        yield Finding("error", "config", place, f"{name} must hold a mapping, got {type(config).__name__}")
        return
    yield from _lint_keys(layout, name, config, place)


def _lint_keys(layout: Layout, name: str, config: dict[str, Any], place: str) -> Iterator[Finding]:
    missing = [key for key in _NEEDED if key not in config]
    if missing:
        yield Finding("error", "config", place, f"expected the keys {', '.join(_NEEDED)}; {', '.join(missing)} missing")
    for key in ("pretty_name", "link"):
        if not config.get(key):
            yield Finding("warning", "config", place, f"no {key}: the website shows one")
    template = config.get("prompt_template")
    if not isinstance(template, str):
        return
    path = layout.configs / template
    if not path.resolve().is_relative_to(layout.configs.resolve()):
        yield Finding("error", "prompt", place, f"prompt_template must lie in models_configs/, got {template!r}")
    elif not path.is_file():
        own = template.startswith(f"{name}/")
        text = f"prompt_template names {template!r}, which is not there"
        text += "" if own else "; fine where upstream has it"
        yield Finding("error" if own else "warning", "prompt", place, text)
    elif PLACEHOLDER not in path.read_text(encoding="utf-8", errors="replace"):
        where = path.relative_to(layout.root).as_posix()
        yield Finding(
            "error", "prompt", where, f"the prompt must hold {PLACEHOLDER}, or every instruction reads the same"
        )
