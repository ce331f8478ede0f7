"""Synthesize, train by TRL, evaluate, again: the function behind ``aad iterate``.

Round r makes pairs with the pair of round r - 1, trains that pair's policy on them by ``trl dpo``, and keeps

    OUTPUT/round-0/             evaluation of the pair it all starts from
    OUTPUT/round-<r>/synthesis  pairs, card, account (`aad_plugin.synthesis`)
    OUTPUT/round-<r>/start      the policy that training starts from, where it had to be merged with its adapter
    OUTPUT/round-<r>/policy     TRL's output folder: loads as pair=…, its reference is the policy of the round before
    OUTPUT/rounds.md, .csv, .json

A killed run goes on where it stopped: pairs batch by batch, training from TRL's last checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.run_folder import read_account, refuse_other_run
from aad_plugin.files.whole import write_text
from aad_plugin.harness.asking import identity, scorer_weights
from aad_plugin.judges.kinds.reward import refuse_twins
from aad_plugin.sources.arguments import take_source, take_template_args
from aad_plugin.sources.parts import PairSource
from aad_plugin.synthesis.synthesizing import Recipe, synthesize
from aad_plugin.texts.prompts import PromptSet, refuse_overlap
from aad_plugin.training.evaluation import Evaluation, Scorer, beside_one_base, check_model_args, evaluate, load_scorer
from aad_plugin.training.oracle_prompts import warn_of_known_prompts
from aad_plugin.training.owning import free, merging_dtype, owned, refuse_cut_pairs, refuse_settings
from aad_plugin.training.recipes import read_recipe
from aad_plugin.training.rounds_table import Round, write_tables
from aad_plugin.training.trl_command import (
    check_options,
    check_trl,
    end_orphans,
    last_checkpoint,
    log_history,
    option_name,
    run_trl,
)

logger = logging.getLogger(__name__)

ACCOUNT = "iterate.json"


@dataclass(frozen=True)
class Plan:
    """What `iterate` is to do.

    Args:
        prompts: pairs are made of these. held_out: the picker's. oracle_prompts: the oracle's; no prompt stands in two.
        recipe: how pairs are made. training: TRL's configuration file. trl_arguments: more of ``trl dpo``'s options.
        picker: "implicit" or "reward:<model>"; stops the rounds. oracle: "reward:<model>"; only reported.
        rounds: at most so many, >= 1. engine: "hf" or "vllm". batch_size: prompts decoded together.
    """

    prompts: PromptSet
    held_out: PromptSet
    oracle_prompts: PromptSet
    recipe: Recipe
    training: Path
    oracle: str
    picker: str = "implicit"
    trl_arguments: tuple[str, ...] = ()
    rounds: int = 1
    engine: str = "hf"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"--rounds must be at least 1, got {self.rounds}")
        if not self.oracle.startswith("reward:"):
            raise ConfigError(f"--oracle must be reward:<model>, got {self.oracle!r}")
        refuse_overlap(prompts=self.prompts, held_out_prompts=self.held_out, oracle_prompts=self.oracle_prompts)

    def asked(self, model_args: dict[str, Any]) -> dict[str, Any]:
        """What decides the outcome, rounds left out: more of them may be asked later."""
        return {
            "model_args": identity(model_args),
            "synthesis": asdict(self.recipe),
            "prompts": self.prompts.digest,
            "held_out_prompts": self.held_out.digest,
            "oracle_prompts": self.oracle_prompts.digest,
            "training": read_recipe(self.training),
            "trl_arguments": list(self.trl_arguments),
            "picker": self.picker,
            "oracle": self.oracle,
            "engine": self.engine,
            **scorer_weights(self.oracle, self.picker, self.recipe.margin_judge),
        }


def iterate(folder: Path, plan: Plan, model_args: dict[str, Any]) -> list[Round]:
    """Run the rounds; blocks for as long as decoding and training take.

    Args:
        folder: for everything. model_args: the pair that round 1 starts from, and its options, as for ``--model aad``.
    Returns:
        round 0 (the pair as given) and every finished round; also in ``rounds.md``, ``.csv`` and ``.json``.
    Raises:
        ConfigError: see `Plan`; the folder holds another run, or one is at work in it. BackendMissing: no TRL.
        TrainingFailed: TRL ended with an error.
    """
    from transformers import AutoTokenizer

    check_trl()
    check_model_args(model_args)
    refuse_twins(plan.oracle, plan.picker, plan.recipe.margin_judge)
    with owned(folder, "iterate"):
        path = folder / ACCOUNT
        asked = plan.asked(model_args)
        there = read_account(path)
        if there and any(folder.glob("round-*/answers/*/*.jsonl")):  # else there is nothing to protect
            refuse_other_run(folder, there, asked, dict.fromkeys(asked, "rounds of another kind"))
        write_text(path, json.dumps(asked, indent=2, default=str) + "\n")
        end_orphans(folder)
        refuse_settings("dpo", plan.training, plan.trl_arguments)
        read = check_options("dpo", ["--config", str(plan.training), "--output_dir", str(folder), *plan.trl_arguments])
        if read.length:
            tokenizer = AutoTokenizer.from_pretrained(take_source(dict(model_args)).tokenizer)
            template_args = take_template_args(dict(model_args))
            refuse_cut_pairs(plan.prompts.prompts, tokenizer, template_args, plan.recipe.max_new_tokens, read.length)
        _warn(plan)
        return _rounds(folder, plan, model_args)


def _rounds(folder: Path, plan: Plan, model_args: dict[str, Any]) -> list[Round]:
    scorers = (load_scorer(plan.picker, model_args), load_scorer(plan.oracle, model_args))
    done = [Round(0, _evaluated(folder / "round-0", plan, model_args, scorers))]
    best, current = done[0], model_args
    for number in range(1, plan.rounds + 1):
        home = folder / f"round-{number}"
        made = synthesize(
            home / "synthesis", plan.prompts, plan.recipe,
            model_args=current, engine=plan.engine, batch_size=plan.batch_size,
        )  # fmt: skip
        free()
        current = _trained(folder, home, plan, current, made.dataset)
        found = Round(number, _evaluated(home, plan, current, scorers), made.kept, made.dropped,
                      log_history(home / "policy"))  # fmt: skip
        done.append(found)
        if found.evaluation.held_out.mean <= best.evaluation.held_out.mean:
            done[-1] = found = replace(found, stopped=number < plan.rounds)
            write_tables(folder, done, plan.picker, plan.oracle, best)
            logger.warning(
                "stopped after round %d: the picker prefers round %d on the held-out prompts", number, best.number
            )
            break
        best = found
        write_tables(folder, done, plan.picker, plan.oracle, best)
    return done


def _evaluated(home: Path, plan: Plan, model_args: dict[str, Any], scorers: tuple[Scorer, Scorer]) -> Evaluation:
    found = evaluate(
        home, model_args, plan.held_out, plan.oracle_prompts, scorers,
        engine=plan.engine, batch_size=plan.batch_size, max_new_tokens=plan.recipe.max_new_tokens,
    )  # fmt: skip
    free()
    return found


def _trained(folder: Path, home: Path, plan: Plan, model_args: dict[str, Any], dataset: Path) -> dict[str, Any]:
    """Train the policy of `model_args` on the pairs; returns the model_args of the new pair, which decodes as that one."""
    options = dict(model_args)
    source = take_source(options)
    options = {**source.settings, **options}  # what a pair folder says of decoding is no part of the new pair's parts
    start = start_checkpoint(home, source, merging_dtype(model_args, plan.training, plan.trl_arguments))
    output = home / "policy"
    finished = home / "training.json"
    if not read_account(finished):
        arguments = [
            "--config",
            str(plan.training),
            "--model_name_or_path",
            start,
            "--dataset_name",
            str(dataset.resolve()),
        ]
        run_trl(
            "dpo",
            [*arguments, *_logging(plan), *plan.trl_arguments],
            output=output,
            log=home / "training.log",
            mark=folder,
        )
        write_text(finished, json.dumps({"start": start, "last_checkpoint": str(last_checkpoint(output))}) + "\n")
    if (output / "adapter_config.json").is_file():
        return {"reference": start, "adapter": str(output.resolve()), **beside_one_base(options)}
    return {"policy": str(output.resolve()), "reference": start, **options}


def _logging(plan: Plan) -> list[str]:
    """The loss twenty times, unless somebody said how often: the trainer's own steps between may exceed a short round."""
    asked = {*read_recipe(plan.training), *map(option_name, plan.trl_arguments)}
    return [] if asked & {"logging_steps", "logging_strategy"} else ["--logging_steps", "0.05"]


def start_checkpoint(home: Path, source: PairSource, dtype: str) -> str:
    """The full checkpoint that training starts from: TRL's command line takes no adapter.

    Args:
        dtype: of merged weights, see `merging_dtype`.
    """
    if not source.shares_base:
        return str(source.policy)
    from aad_plugin.sources.merging import merge_adapter

    return str(merge_adapter(str(source.base), str(source.adapter), dtype, home.resolve() / "start"))


def _warn(plan: Plan) -> None:
    """Say what makes the oracle's figures worth less."""
    for name, option in ((plan.picker, "--picker"), (plan.recipe.margin_judge, "--margin-judge")):
        if name == plan.oracle:
            logger.warning("%s is the oracle itself: its figures are then no independent measure", option)
    every: Sequence[PromptSet] = (plan.prompts, plan.held_out, plan.oracle_prompts)
    warn_of_known_prompts(plan.oracle, [prompt for prompts in every for prompt in prompts.prompts])
