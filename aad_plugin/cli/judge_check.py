"""`aad judge-check`: how good is this judge?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli import judge_reasons
from aad_plugin.cli.judge_options import JudgeOptions, takes_judge_options
from aad_plugin.cli.judge_quality import QualityOptions, check_quality
from aad_plugin.cli.option_group import takes
from aad_plugin.errors import ConfigError, JudgeError

Judge = Annotated[str | None, typer.Option("--judge", help="kind:name[,option=value…], preset:name or a YAML file.")]
Labels = Annotated[
    Path | None, typer.Option(help="Human verdicts, JSON lines or CSV: prompt, candidate, baseline, label; or output.")
]
LeastAgreement = Annotated[
    float | None,
    typer.Option(help="Least lower bound of kappa's 95 % interval, with --labels (default 0) or --on.", min=-1, max=1),
]
Output = Annotated[Path | None, typer.Option(help="Folder for the store and check.json; none keeps nothing.")]

CompareReasons = Annotated[
    bool,
    typer.Option("--compare-reasons", help="Measure no reasons, reasons first and verdict first, on --labels or not."),
]


@takes_judge_options()
@takes(quality=QualityOptions)
def judge_check(
    *,
    judge: Judge = None,
    quality: QualityOptions,
    labels: Labels = None,
    min_kappa: LeastAgreement = None,
    output: Output = None,
    compare_reasons: CompareReasons = False,
    asked: JudgeOptions,
) -> None:
    """Attack a judge with constant, empty, padded and instructing answers, planted verdicts and frames; find its biases.

    With --labels, measure its agreement with people as well; a pointwise judge is checked by that alone. With --on, hold it
    against comparisons that people judged, and nothing else; with --plan, say how many labels a study needs.
    Exit code 0: all checks passed. 1: stopped by an error. 3: a check failed.
    """
    from aad_plugin.judges.checks.check import check_judge
    from aad_plugin.judges.checks.labels import agreement_with, read_labelled

    if quality.on is not None:
        if labels or compare_reasons:
            raise ConfigError("--on is a check of its own: leave --labels and --compare-reasons out")
        check_quality(judge, asked, output, quality, quality.on, min_kappa)
        return
    quality.refuse_without_set()
    if min_kappa is not None and (labels is None or compare_reasons):
        raise ConfigError("--min-kappa is a limit on the agreement with --labels, or with the people of --on: pass one")
    if judge is None:
        raise ConfigError("pass --judge SPEC, e.g. openai:gpt-4.1-mini or preset:demo (`aad judges list`)")
    if compare_reasons:
        judge_reasons.compare_reasons(judge, asked, labels, output)
        return
    (loaded,) = asked.load([judge])
    if loaded.kind == "pointwise" and labels is None:
        raise ConfigError(f"{loaded.name} judges answers one by one; it is checked against human labels: pass --labels")
    if labels:
        read_labelled(labels, loaded)  # a mistake in it shows before anything is asked
    findings = check_judge(loaded, output) if loaded.kind == "pairwise" else []
    agreement = agreement_with(loaded, labels, output) if labels else {}
    passed = all(finding.passed for finding in findings)
    if agreement:
        # NaN (one label throughout) shows no agreement, so it does not pass either.
        passed = passed and agreement.get("kappa_ci95", [float("nan")])[0] > (min_kappa or 0.0)
    _print(loaded.name, findings, agreement, passed)
    if output is not None:
        _write(output, loaded, findings, agreement, passed)
    if not passed:
        raise typer.Exit(3)


def _print(name: str, findings: list[Any], agreement: dict[str, Any], passed: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "value", "must lie in", "", "what it is", title=name, title_justify="left")
    for finding in findings:
        limits = f"{finding.low:.2f} to {finding.high:.2f}"
        table.add_row(
            finding.name, f"{finding.value:.3f}", limits, "passed" if finding.passed else "FAILED", finding.meaning
        )
    console = Console(markup=False)
    if findings:
        console.print(table)
    for key, value in agreement.items():
        console.print(f"{key}: {value}")
    console.print("all checks passed" if passed else "this judge did not pass")


def _write(output: Path, judge: Any, findings: list[Any], agreement: dict[str, Any], passed: bool) -> None:
    import dataclasses

    from aad_plugin.files.whole import without_nan
    from aad_plugin.judges.statistics.results import versions

    report = {
        "judge": judge.name,
        "judge_fingerprint": judge.fingerprint,
        "template_hash": judge.template_hash,
        "passed": passed,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "agreement": agreement,
        "versions": versions(),
    }
    try:
        (output / "check.json").write_text(json.dumps(without_nan(report), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise JudgeError(f"cannot write to {output}: {error.strerror or error}; all rulings are kept") from error
