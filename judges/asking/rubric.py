"""A rubric: several criteria in one question, each with a verdict of its own.

A rubric file is YAML, a name and a sentence for each criterion:

    criteria:
      correctness: What it says is true.
      completeness: It covers everything that was asked.

How its replies are read: see `by_criterion`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from aad_plugin.errors import ConfigError

Criteria = tuple[tuple[str, str], ...]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TAKEN = {"verdict", "reasons", "reason"}
_MOST = 20


def read_rubric(path: str | Path) -> Criteria:
    """Read a rubric file: (name, sentence) of each criterion, in order.

    Raises:
        ConfigError: no such file, not of that form, fewer than two criteria, or a name that cannot be a field.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the rubric {path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"the rubric {path} is not YAML: {' '.join(str(error).split())}") from error
    found = content.get("criteria") if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not 2 <= len(found) <= _MOST:
        raise ConfigError(
            f"the rubric {path} needs the key criteria with 2 to {_MOST} lines `name: what it asks for`, got {found!r:.80}"
        )
    for name, sentence in found.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name) and name not in _TAKEN):
            raise ConfigError(
                f"a criterion's name in {path} is made of small letters, digits and _, and is not "
                f"{', '.join(sorted(_TAKEN))}; got {name!r}"
            )
        if not (isinstance(sentence, str) and sentence.strip()):
            raise ConfigError(f"the criterion {name} in {path} needs a sentence that says what it asks for")
    return tuple((name, " ".join(sentence.split())) for name, sentence in found.items())
