"""Write a submission: the files of a pull request, to be copied over a checkout of alpaca_eval.

Every file that has room for it names the judge; a custom judge's figures never stand under the official judge's name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.alpaca.annotations import OFFICIAL_ANNOTATOR, check_annotations, read_annotations
from aad_plugin.alpaca.findings import refuse_errors
from aad_plugin.alpaca.generation import read_account
from aad_plugin.alpaca.instructions import FIELDS, InstructionSet, text_mark
from aad_plugin.alpaca.layout import Layout
from aad_plugin.alpaca.leaderboard import COLUMNS, WEIGHT_COLUMNS, Row, read_csv, row_of, write_csv
from aad_plugin.alpaca.length_control import Controlled, length_control
from aad_plugin.alpaca.outputs import check_name, check_outputs, read_outputs
from aad_plugin.alpaca.sources import PLACEHOLDER
from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import write_text

_UPSTREAM_BOARDS = (
    OFFICIAL_ANNOTATOR, "alpaca_eval_gpt4_turbo_fn", "alpaca_eval_cot_gpt4_turbo_fn", "claude_3_opus_ranking",
    "mistral-large-2402_ranking",
)  # fmt: skip


@dataclass(frozen=True)
class Submission:
    """What is to be submitted, checked.

    Args:
        name: the model's. annotator: the judge's. outputs, annotations: rows. wanted: the instructions they answer.
        account: ``generation.json``, as far as it is there. controlled: the length-controlled rate, where df_gamed.csv
            was given.
    """

    name: str
    annotator: str
    outputs: Sequence[Mapping[str, str]]
    annotations: Sequence[Mapping[str, Any]]
    wanted: InstructionSet
    account: Mapping[str, Any]
    controlled: Controlled | None = None

    @property
    def row(self) -> Row:
        """The row of the leaderboard."""
        row = row_of(self.annotations, [len(one["output"]) for one in self.outputs])
        if self.controlled is None:
            return row
        value, error = self.controlled.value, self.controlled.standard_error
        return dataclasses.replace(row, length_controlled_winrate=value, lc_standard_error=error)


def judge_label(annotator: str) -> str:
    """What is to be said about a judge wherever its figures go."""
    if annotator == OFFICIAL_ANNOTATOR:
        return f"{annotator}: AlpacaEval 2's official judge, which its provider has since shut down"
    return f"{annotator}: a custom judge, NOT AlpacaEval 2's official one; not comparable with its leaderboard"


def load_submission(
    outputs: Path, annotations: Path, wanted: InstructionSet, *, gamed: Path | None = None
) -> Submission:
    """Read outputs and annotations and hold them against the rules; fit the length control where `gamed` is given.

    Raises:
        ConfigError: the first broken rule. BackendMissing: `gamed` needs alpaca_eval. JudgeUnavailable: it failed.
    """
    rows, judged = read_outputs(outputs), read_annotations(annotations)
    if not rows:
        raise ConfigError(f"{outputs} holds no outputs")
    refuse_errors(check_outputs(rows, wanted, str(outputs)))
    name, annotator = check_name(rows[0]["generator"]), check_name(judged[0]["annotator"])
    texts = {text_mark(row["instruction"]): row["output"] for row in rows}
    checked = check_annotations(judged, wanted, str(annotations), name=name, annotator=annotator, outputs=texts)
    refuse_errors(finding for finding in checked if finding.rule != "constant-preference")
    account = read_account(outputs if outputs.is_dir() else outputs.parent)
    account = account if account.get("name") == name else {}
    controlled = length_control(judged, wanted, gamed) if gamed is not None else None
    return Submission(name, annotator, rows, judged, wanted, account, controlled)


def write_submission(
    submission: Submission, folder: Path, *, checkout: Path | None = None, pretty_name: str = "", link: str = ""
) -> list[Path]:
    """Write the files of a pull request below `folder`; returns their paths.

    Args:
        checkout: a clone of alpaca_eval, whose leaderboard and weights are extended; not changed itself.
        pretty_name, link: of the model, for the website.
    Raises:
        ConfigError: a part of AlpacaEval; a name that is on the leaderboard already; upstream's own leaderboard without
            `checkout`.
    """
    name, annotator = submission.name, submission.annotator
    if submission.wanted.kind == "partial":
        raise ConfigError(f"{submission.wanted.label} is no leaderboard submission: answer and judge all of them")
    if annotator in _UPSTREAM_BOARDS and checkout is None:
        raise ConfigError(
            f"upstream has a leaderboard of {annotator}, which a file with one row would replace: pass --checkout, a "
            "clone of alpaca_eval, to have the row added to it"
        )
    there, here = Layout(checkout) if checkout else None, Layout(folder)
    baseline = submission.annotations[0]["generator_1"]
    boards = _extended(there.leaderboard(annotator) if there else None, COLUMNS, name, submission.row.values())
    files = {
        here.config(name): _config(submission, pretty_name or name, link),
        here.config(name).with_name("prompt.txt"): submission.account.get("prompt", PLACEHOLDER),
        here.outputs(name): _json([{field: row[field] for field in FIELDS} for row in submission.outputs]),
        here.annotations(name, annotator): _json(submission.annotations),
        here.leaderboard(annotator): write_csv(boards, COLUMNS),
    }
    if submission.controlled is not None:
        weights = [repr(submission.controlled.weights[column]) for column in WEIGHT_COLUMNS]
        old = there.weights(annotator, baseline) if there else None
        rows = _extended(old, WEIGHT_COLUMNS, name, weights)
        files[here.weights(annotator, baseline)] = write_csv(rows, WEIGHT_COLUMNS)
    files[folder / "PULL_REQUEST.md"] = _pull_request(submission, [path.relative_to(folder) for path in files])
    for path, text in files.items():
        write_text(path, text)
    return list(files)


def _extended(path: Path | None, columns: Sequence[str], name: str, cells: Sequence[str]) -> dict[str, Sequence[str]]:
    rows: dict[str, Sequence[str]] = {}
    if path is not None and path.is_file():
        old = read_csv(path, columns)
        if name in old:
            raise ConfigError(f"{path} has a row {name!r} already: pass outputs under another name")
        rows = {one: [line[column] for column in columns] for one, line in old.items()}
    return {**rows, name: cells}


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _config(submission: Submission, pretty_name: str, link: str) -> str:
    import yaml

    given = dict(submission.account.get("completions_kwargs") or {"model_name": submission.name})
    given.pop("versions", None)
    config = {
        "prompt_template": f"{submission.name}/prompt.txt",
        "fn_completions": None,
        "completions_kwargs": given,
        "pretty_name": pretty_name,
        "link": link,
    }
    about = (
        "# Outputs made by aad_plugin, not by alpaca_eval (fn_completions: null).\n"
        f"# Judge: {judge_label(submission.annotator)}.\n"
    )
    return about + yaml.safe_dump({submission.name: config}, sort_keys=False, allow_unicode=True, width=120)


def _pull_request(submission: Submission, files: Sequence[Path]) -> str:
    row, name = submission.row, submission.name
    lines = [
        f"# Add {name}",
        "",
        f"* Judge: {judge_label(submission.annotator)}",
        f"* Instructions: {submission.wanted.label}",
        f"* Held against: {submission.annotations[0]['generator_1']}",
        f"* Win rate {row.win_rate:.2f} ± {row.standard_error:.2f} (n = {row.n_total:.0f}), "
        f"mean length {row.avg_length:.0f} characters",
    ]
    if submission.controlled is not None:
        lines.append(f"* Length-controlled win rate {row.length_controlled_winrate:.2f}, by the alpaca_eval package")
    elif submission.wanted.kind == "other":
        lines.append("* A rehearsal: alpaca_eval takes results on its own 805 instructions only")
    else:
        lines.append("* No length-controlled win rate: it needs AlpacaEval's df_gamed.csv (`--df-gamed`)")
    if submission.account.get("truncated"):
        lines.append(f"* {len(submission.account['truncated'])} outputs ran into the token budget")
    ignored = " ".join(f"'{path.as_posix()}'" for path in files)
    lines += [
        "",
        "Copied over a checkout, in which results/ and JSON files are ignored by git:",
        "",
        f"    git add -f {ignored}",
    ]
    return "\n".join(lines) + "\n"
