"""The training recipes of this package: configuration files for TRL's own command line (``trl … --config FILE``)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from aad_plugin.errors import ConfigError, nearest


def recipe_names() -> list[str]:
    """The recipes that come with this package."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: one of `recipe_names`, or the path of a .yaml file.
    Raises:
        ConfigError: neither of the two.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).expanduser().is_file():
            raise ConfigError(f"no recipe file {name!r}")
        return Path(name).expanduser().resolve()
    if name not in recipe_names():
        raise ConfigError(
            f"no recipe {name!r}{nearest(name, recipe_names())}; expected {', '.join(recipe_names())} or a .yaml file"
        )
    return Path(str(_folder() / f"{name}.yaml"))


def one_model_recipe(name: str) -> Path:
    """The file of a recipe that makes one model of a pair (``recipes/one_model``); arguments and errors as above."""
    folder = _folder() / "one_model"
    names = sorted(path.name.removesuffix(".yaml") for path in folder.iterdir())
    if name.endswith((".yaml", ".yml")):
        return recipe_path(name)
    if name not in names:
        raise ConfigError(f"no recipe {name!r}{nearest(name, names)}; expected {', '.join(names)} or a .yaml file")
    return Path(str(folder / f"{name}.yaml"))


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe's settings, fit to be written down: of ``env`` the names alone.

    Raises:
        ConfigError: not a YAML mapping, or a token in it.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the recipe {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"the recipe {path} must be a mapping of TRL's options, got {type(content).__name__}")
    if "hub_token" in content:
        raise ConfigError(
            f"the recipe {path} holds hub_token, which would end up in results: set HF_TOKEN in the environment"
        )
    if isinstance(content.get("env"), dict):
        content = {**content, "env": sorted(map(str, content["env"]))}
    return content


def _folder() -> Any:
    return resources.files("aad_plugin.training") / "recipes"
