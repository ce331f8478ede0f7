"""Files and folders that a run writes: whole or not at all, refused before work is done where they cannot be; and a folder
that one run owns: what was asked stands in it, a later run with the same words goes on, others are refused.

Knows files and JSON, no models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import write_text

_SHOWN = 60


def read_account(path: Path) -> dict[str, Any]:
    """The JSON object a run left about itself; empty where there is none.

    Raises:
        ConfigError: the file is something else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold an object, got {type(content).__name__}")
    return content


def refuse_other_run(
    folder: Path,
    there: Mapping[str, Any],
    mine: Mapping[str, Any],
    changed: Mapping[str, str],
    option: str = "--output",
) -> None:
    """Raise ConfigError where an account and what is asked now differ in a key of `mine`.

    Args:
        there: the account in the folder. mine: what this run asks. changed: key -> what its change means, for the message.
        option: that names the folder.
    """
    for what, value in mine.items():
        if there.get(what) != json.loads(json.dumps(value, default=str)):
            shown = difference(there.get(what), value)
            raise ConfigError(f"{folder} holds {changed[what]}: {shown}; pass another {option}")


def keep_asked(folder: Path, asked: Mapping[str, Any], what: str, option: str = "--output") -> None:
    """Write what a run asks into its folder; ConfigError where the folder's ``asked.json`` says otherwise.

    Args:
        asked: plain JSON values. what: a folder of other things, for the message. option: that names the folder.
    """
    file = folder / "asked.json"
    refuse_other_run(folder, read_account(file) or asked, asked, dict.fromkeys(asked, what), option)
    write_text(file, json.dumps(asked, indent=1) + "\n")


def difference(there: Any, mine: Any) -> str:
    """The first value that differs, as "there, not here"."""
    if isinstance(there, dict) and isinstance(mine, dict):
        for key in [*there, *mine]:
            now = json.loads(json.dumps(mine.get(key), default=str))
            if there.get(key) != now:
                inner = difference(there.get(key), now)
                return inner if isinstance(now, dict) and isinstance(there.get(key), dict) else f"{key} is {inner}"
    return f"{json.dumps(there)[:_SHOWN]}, not {json.dumps(mine, default=str)[:_SHOWN]}"
