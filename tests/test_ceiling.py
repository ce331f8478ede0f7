"""Raising a ceiling changes one line of pyproject.toml and one pin."""

from __future__ import annotations

import pytest

from tests.ceiling import ROOT, pinned, raised


def test_one_line_changes():
    before = (ROOT / "pyproject.toml").read_text("utf-8")
    after = raised(before, "transformers", "7.3.1")
    different = [line for line, old in zip(after.splitlines(), before.splitlines(), strict=True) if line != old]
    assert different == ['    "transformers>=5.19,<7.4",']
    before = (ROOT / "constraints.txt").read_text("utf-8")
    after = pinned(before, "lm-eval", "7.3.1")
    assert [line for line in after.splitlines() if line not in before.splitlines()] == ["lm_eval==7.3.1"]


def test_a_library_without_a_ceiling_is_named():
    with pytest.raises(SystemExit, match="no ceiling of 'numpi'"):
        raised((ROOT / "pyproject.toml").read_text("utf-8"), "numpi", "1.0")
