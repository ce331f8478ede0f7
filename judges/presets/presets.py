"""Presets: judges by name, each with what was measured of it, or that nothing was.

A file holds: kind, judge (what `load_judge` calls the name), about; options (any of that kind); and either `measured`
(figure, on, source, date) or nothing, which is shown as "not measured". A judge that cannot be asked any more has
`gone` (since, why, stands_in) instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, nearest

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset. price: money per million prompt and completion tokens, as in the options. measured, gone: see above."""

    name: str
    kind: str
    judge: str
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, str] = field(default_factory=dict)
    gone: Mapping[str, str] = field(default_factory=dict)

    @property
    def quality(self) -> str:
        """The measured figure with date and source, or that there is none."""
        if not self.measured:
            return NOT_MEASURED
        return "{figure} on {on} ({date}; {source})".format_map(self.measured)


def preset_names() -> list[str]:
    """Names of all presets."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_preset(name: str) -> Preset:
    """A preset, gone or not.

    Raises:
        ConfigError: none has this name; says which is nearest.
    """
    import yaml

    names = preset_names()
    if name not in names:
        raise ConfigError(f"there is no judge preset {name!r}{nearest(name, names)}; presets: {', '.join(names)}")
    content = yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset(name=name, **content)


def load_preset(name: str) -> Preset:
    """A preset that can be asked.

    Raises:
        ConfigError: as `read_preset`, or the judge is gone; says which stands in.
    """
    preset = read_preset(name)
    if preset.gone:
        raise ConfigError(
            "the judge {} cannot be asked any more since {since} ({why}); {stands_in} stands in, and its figures do not "
            "compare with the official ones".format(name, **preset.gone)
        )
    return preset


def _folder() -> Path:
    return Path(__file__).parent
