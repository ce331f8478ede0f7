"""The table of docs/one_model.md, row by row; the same command goes on where a killed one stopped.

    python -m experiments.one_model --pair demo --prompts prompts/synthesis_160.jsonl \
        --held-out-prompts prompts/held_out_40.jsonl --oracle-prompts prompts/oracle_160.jsonl \
        --oracle reward:demo --picker reward:demo@1 --output runs/one_model

A row is finished when OUTPUT/rows/<row>.json is there; every attempt, failed ones too, stands in OUTPUT/attempts.jsonl.
The command may be started twice in one folder: each process leaves out the row that the other is making.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aad_plugin.cli.main import plain_errors
from aad_plugin.errors import AADError, ConfigError
from aad_plugin.files.run_folder import read_account, refuse_other_run
from aad_plugin.files.whole import write_text
from aad_plugin.harness.asking import identity
from aad_plugin.judges.kinds.reward import refuse_twins, reward_mark
from aad_plugin.sources.arguments import parse_model_args
from aad_plugin.texts.messages import digest
from aad_plugin.texts.prompts import PromptSet, read_prompts, refuse_overlap
from aad_plugin.training.owning import free
from aad_plugin.training.recipes import read_recipe
from experiments.one_model.rows import Asked, measured, recipes, row_names
from experiments.one_model.table import write_table
from experiments.one_model.times import add_times


def main() -> None:
    """Make the rows that are missing, then the table."""
    with plain_errors():
        _run()


def _run() -> None:
    asked, only = _asked()
    asked.output.mkdir(parents=True, exist_ok=True)
    with FileLock(asked.output / ".lock"):  # another process waits for the moment that it takes
        keep_account(asked)
    files = {name: asked.output / "rows" / f"{name}.json" for name in row_names(asked)}
    failed = [name for name, file in files.items() if (not only or name in only) and not _make_row(asked, name, file)]
    done = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    if len(done) == len(files):
        add_times(asked, done)
    print(write_table(asked.output, done, row_names(asked)))
    if failed := [name for name in failed if name not in done]:
        raise AADError(f"rows that failed: {', '.join(failed)}; {asked.output / 'attempts.jsonl'} says why")


def _make_row(asked: Asked, name: str, file: Path) -> bool:
    """Make a row that is missing, unless another process is at it; False where it failed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file.with_suffix(".lock"), timeout=0):
            if not file.is_file():
                return _attempt(asked, name, file)
    except Timeout:
        print(f"row {name} is being made by another process", flush=True)
    return True


def keep_account(asked: Asked) -> None:
    """Write what the rows are asked to hold; ConfigError where the folder's rows were asked something else."""
    account: dict[str, Any] = {
        name: value.digest if isinstance(value, PromptSet) else value for name, value in vars(asked).items()
    }
    account["model_args"] = identity(asked.model_args)
    account["recipes"] = {name: read_recipe(path) for name, path in recipes(asked).items()}
    account["weights"] = {
        name: digest(reward_mark(name.removeprefix("reward:"))) for name in (asked.oracle, asked.picker)
    }
    account = json.loads(json.dumps({name: value for name, value in account.items() if name != "output"}))
    file = asked.output / "asked.json"
    there = read_account(file) or account
    if not file.is_file() and any((asked.output / "rows").glob("*.json")):
        raise ConfigError(
            f"{asked.output} holds rows, but not what they were asked ({file.name}): pass another --output"
        )
    refuse_other_run(asked.output, there, account, {name: f"rows made with other {name}" for name in account})
    write_text(file, json.dumps(account, indent=1) + "\n")


def _attempt(asked: Asked, name: str, file: Path) -> bool:
    """Make one row and note how it ended; False where it failed, which does not keep the others from being made."""
    start, outcome = time.time(), "finished"
    began = {"row": name, "began": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start))}
    _note(asked, began)  # a process that is killed writes no more than this
    print(f"row {name}", flush=True)
    try:
        found = measured(asked, name)
        write_text(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
        print(outcome if isinstance(error, AADError) else traceback.format_exc(), flush=True)
    except BaseException as error:
        outcome = f"broken off: {type(error).__name__}"
        raise
    finally:
        _note(asked, {**began, "outcome": outcome, "seconds": round(time.time() - start, 1)})
        free()
    return outcome == "finished"


def _note(asked: Asked, line: dict[str, Any]) -> None:
    with (asked.output / "attempts.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line, ensure_ascii=False) + "\n")


def _asked() -> tuple[Asked, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.one_model", description=(__doc__ or "").splitlines()[0]
    )
    for option in ("--prompts", "--held-out-prompts", "--oracle-prompts", "--oracle", "--picker"):
        parser.add_argument(option, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pair", default=None)
    parser.add_argument("--model-args", default="dtype=float32", help="of the pair, as for --model aad")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--scales", default="0.5,1,2,3", help="of ExPO, picked on the held-out prompts")
    parser.add_argument("--eft-scale", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=30, help="of every training; DPO takes two thirds")
    parser.add_argument("--distill-recipe", default="distill_demo")
    parser.add_argument("--rl-training", default="grpo_demo")
    parser.add_argument("--dpo-recipe", default="dpo_demo")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--only", default="", help="rows by name, separated by commas")
    given: dict[str, Any] = vars(parser.parse_args())
    only = [name for name in given.pop("only").split(",") if name]
    model_args = parse_model_args(given.pop("model_args"))
    pair = given.pop("pair")
    sets: dict[str, Any] = {
        name: read_prompts(given.pop(name)) for name in ("prompts", "held_out_prompts", "oracle_prompts")
    }
    refuse_overlap(**sets)
    if given["picker"] == given["oracle"]:
        raise ConfigError("--picker and --oracle must be two models: what chooses cannot measure")
    refuse_twins(given["picker"], given["oracle"])
    numbers: dict[str, Any] = {"seeds": tuple(int(one) for one in given.pop("seeds").split(",")),
               "scales": tuple(float(one) for one in given.pop("scales").split(","))}  # fmt: skip
    asked = Asked(model_args={**({"pair": pair} if pair else {}), **model_args}, **sets, **numbers, **given)
    unknown = [name for name in only if name not in row_names(asked)]
    if unknown:
        raise ConfigError(f"--only: no row {unknown[0]!r}; there are {', '.join(row_names(asked))}")
    return asked, only


if __name__ == "__main__":
    main()
