"""The gate's findings for people (a table), for programs (JSON) and for CI (JUnit XML)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

from aad_plugin.files.whole import write_text
from aad_plugin.report.gate import GateResult, Tested

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def gate_text(result: GateResult) -> str:
    """A table of everything that was tested, then what was not, then one line that says it all."""
    rows = [("task", "metric", "n", "old", "new", "difference [95 %]", "p", "Holm", "")]
    for one in sorted(result.compared, key=lambda one: one.p):
        interval = f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
        verdict = {"regression": "REGRESSION", "better": "better", "fine": ""}[one.outcome]
        figures = (f"{one.old:.4f}", f"{one.new:.4f}", interval, f"{one.p:.4f}", f"{one.p_holm:.4f}")
        rows.append((one.task, one.metric, str(one.n), *figures, verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = lines if result.compared else []
    lines += [f"not comparable: {one.task}: {one.what}: {one.detail}" for one in result.mismatches]
    lines += _not_gated(result)
    lines += [f"note: {note}" for note in result.notes]
    return "\n".join([*lines, _verdict(result)])


def write_json(result: GateResult, path: Path) -> None:
    """Write everything as JSON; NaN becomes null."""
    from aad_plugin.files.whole import without_nan

    write_text(path, json.dumps(without_nan(result.to_json()), indent=2) + "\n")


def junit_xml(result: GateResult, path: Path) -> None:
    """Write one test case per metric: a regression is a failure, what cannot be compared an error."""
    counts = {
        "tests": len(result.compared) + len(result.mismatches),
        "failures": len(result.regressions),
        "errors": len(result.mismatches),
    }
    suite = ElementTree.Element("testsuite", {"name": "aad report gate", **{k: str(v) for k, v in counts.items()}})
    for one in result.compared:
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(one.task), name=_clean(one.metric))
        if one.outcome == "regression":
            ElementTree.SubElement(case, "failure", message=_clean(_sentence(one)))
    for missing in result.mismatches:
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(missing.task), name=missing.what)
        ElementTree.SubElement(case, "error", message=_clean(f"not comparable: {missing.detail}"))
    if result.not_gated:
        ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(_not_gated(result)))
    text = ElementTree.tostring(suite, encoding="unicode")
    write_text(path, f"<?xml version='1.0' encoding='utf-8'?>\n{text}")


def _not_gated(result: GateResult) -> list[str]:
    """One line per task and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in result.not_gated:
        groups.setdefault((one.task, one.why), []).append(one.metric)
    return [f"not gated: {task}: {', '.join(metrics)}: {why}" for (task, why), metrics in groups.items()]


def _verdict(result: GateResult) -> str:
    names = f"{result.new} against {result.old}"
    if result.regressions:
        many = f"{len(result.regressions)} of {len(result.compared)} metrics"
        return f"{names}: {many} got worse (level {result.level:g}, Holm)"
    if result.exit_code:
        return f"{names}: not comparable"
    return f"{names}: no regression in {len(result.compared)} metrics (level {result.level:g}, Holm)"


def _sentence(one: Tested) -> str:
    return (
        f"{one.metric} went from {one.old:.4f} to {one.new:.4f} on {one.n} prompts: {one.difference:+.4f} "
        f"[{one.low:+.4f}, {one.high:+.4f}], p = {one.p_holm:.4f} after Holm ({one.test})"
    )


def _clean(text: str) -> str:
    """XML has no way to write most control characters."""
    return _NOT_XML.sub("\ufffd", text)
