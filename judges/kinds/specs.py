"""From one string to a judge: the table of kinds, and the entry-point group through which others add theirs.

    openai:<model>  hf:<chat model>  reward:<model>  classifier:<model>  alpaca_eval:<annotator>  refusals:text
    preset:<name>  <file>.yaml

A third party's package declares in its own pyproject.toml

    [project.entry-points."aad_plugin.judges"]
    mykind = "my_package.judge:MyJudge"

and ``mykind:<name>`` calls ``MyJudge(name, **options)``, which returns what `sitting.Judge` describes.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest
from aad_plugin.judges.sitting.judge import Judge, completed
from aad_plugin.judges.statistics.limits import LIMIT_NAMES, Limits

GROUP = "aad_plugin.judges"
_OWN = {
    "openai": "aad_plugin.judges.kinds.openai:openai_judge",
    "hf": "aad_plugin.judges.kinds.local_chat:hf_judge",
    "reward": "aad_plugin.judges.kinds.reward:RewardJudge",
    "classifier": "aad_plugin.judges.kinds.classifier:ClassifierJudge",
    "alpaca_eval": "aad_plugin.judges.kinds.alpaca_eval:AlpacaEvalJudge",
    "refusals": "aad_plugin.judges.kinds.refusals:RefusalJudge",
}


def load_judge(spec: str, **options: Any) -> Judge:
    """Make a judge; loads weights for in-process kinds, opens no connection for the others.

    Args:
        spec: "kind:name", "kind:name,option=value,..." or the path of a YAML file with the keys kind, name and options;
            options after a file's name win over its own.
        options: of that kind, or limits (see `limits.Limits`); they win over the spec's own. None means "not given".
    Raises:
        ConfigError: unknown kind or option (with the nearest name), or nothing is there by that name.
    """
    kind, name, own = parse_spec(spec)
    given = own | {key: value for key, value in options.items() if value is not None}
    factory = _factory(kind, spec)
    names = _option_names(factory)
    limits = Limits.of(given)
    given = {key: value for key, value in given.items() if key not in LIMIT_NAMES}
    for key in given:
        if names is not None and key not in names:
            raise ConfigError(
                f"a judge of kind {kind!r} has no option {key!r}{nearest(str(key), names)}; its options: {', '.join(names)}"
            )
    judge = completed(factory(name, **given))
    if limits != Limits():
        judge.limits = limits
    return judge


def parse_spec(spec: str) -> tuple[str, str, dict[str, Any]]:
    """Split a spec or read its YAML file: (kind, name, options).

    Raises:
        ConfigError: the spec has no kind or no name, or the file is not a mapping with them.
    """
    file, comma, rest = spec.partition(",")
    if file.endswith((".yaml", ".yml")):
        kind, name, own = _from_yaml(Path(file))
        return kind, name, own | (_options(spec, rest.split(",")) if comma else {})
    kind, colon, rest = spec.partition(":")
    name, *pairs = rest.split(",")
    if kind == "preset":
        return _from_preset(name, ",".join(pairs))
    if not colon or not kind or not name:
        raise ConfigError(
            f"a judge is named kind:name, e.g. openai:gpt-4.1-mini or reward:demo, got {_shown(spec)!r}; "
            f"kinds: {', '.join(kinds())}"
        )
    return kind, name, _options(spec, pairs)


def _options(spec: str, pairs: list[str]) -> dict[str, Any]:
    """What stands after a judge's name as option=value."""
    import yaml

    options = {}
    for number, pair in enumerate(pairs, start=1):
        key, equals, value = pair.partition("=")
        if not equals or not key:  # not shown: with a comma in it, it may be the rest of a secret
            raise ConfigError(
                f"after its name a judge takes option=value, separated by commas; part {number} after {_shown(spec)!r} has "
                "no = (a value that holds commas belongs into a YAML file)"
            )
        try:
            options[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"the value of {key.strip()} after {_shown(spec)!r} is not YAML{_where(error)}") from None
    return options


def _from_preset(name: str, rest: str) -> tuple[str, str, dict[str, Any]]:
    """A preset as its file says it; options after its name win over the file's."""
    from aad_plugin.judges.presets.presets import load_preset

    preset = load_preset(name)
    own = _options(f"preset:{name},{rest}", rest.split(",")) if rest else {}
    return preset.kind, preset.judge, dict(preset.options) | own


def _shown(spec: str) -> str:
    """A spec without its options, whose values may be secrets."""
    name, comma, _ = spec.partition(",")
    return name + (",…" if comma else "")


def _where(error: Any) -> str:
    """Where in a YAML text an error is; the parser's own words may quote a secret."""
    mark = getattr(error, "problem_mark", None)
    return f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def accepted_options(spec: str) -> set[str]:
    """Names of the options that a spec's kind takes; of a kind that takes any, those of ``openai:``."""
    kind, _, _ = parse_spec(spec)
    names = _option_names(_factory(kind, spec))
    return set(_option_names(_factory("openai", spec)) or () if names is None else names)


def kinds() -> dict[str, str | EntryPoint]:
    """Kind -> where its factory lives; own kinds cannot be replaced from outside."""
    return {point.name: point for point in entry_points(group=GROUP)} | _OWN


def _factory(kind: str, spec: str) -> Callable[..., Judge]:
    found = kinds().get(kind)
    if found is None:
        raise ConfigError(
            f"unknown judge kind {kind!r} in {_shown(spec)!r}{nearest(kind, kinds())}; kinds: {', '.join(sorted(kinds()))}"
        )
    if isinstance(found, EntryPoint):
        return found.load()
    module, _, attribute = found.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _option_names(factory: Callable[..., Judge]) -> list[str] | None:
    """Keyword-only parameters of a factory; None where it takes any."""
    known = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
        return None
    return [parameter.name for parameter in known if parameter.kind is parameter.KEYWORD_ONLY]


def _from_yaml(path: Path) -> tuple[str, str, dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the judge file {path}: {type(error).__name__} {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"the judge file {path} is not YAML{_where(error)}") from None
    if not isinstance(content, dict) or not content.get("kind") or not content.get("name"):
        found = f"the keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"the judge file {path} needs the keys kind and name, got {found}")
    kind, name = str(content.pop("kind")), str(content.pop("name"))
    return kind, name, content


def refuse_unsuited(spec: str, options: Mapping[str, Any], kind: str, whose: str) -> None:
    """Refuse what a judge cannot be asked with these options; loads no weights, opens no connection.

    Args:
        kind: "pairwise" or "pointwise", as `whose`, a task, needs it.
    Raises:
        ConfigError: an option it has not, or of a chat judge a template that its form of reply cannot answer or that is
            not of this kind.
    """
    from aad_plugin.judges.kinds.chat import asked_template
    from aad_plugin.judges.kinds.local_chat import hf_forms

    accepted_options(spec)
    name, _, own = parse_spec(spec)
    if name not in ("openai", "hf"):
        return
    asked = {**own, **options}
    template = asked_template(**{key: asked[key] for key in ("template", "rubric", "reasons") if key in asked})
    if template.kind != kind:
        raise ConfigError(
            f"{whose} needs a {kind} judge, the template {template.name!r} is {template.kind}; choose another template"
        )
    if name == "openai":
        load_judge(spec, **options)
    else:
        hf_forms(template)
