"""A policy optimised with its own pair: the function behind ``aad rl``.

    OUTPUT/start                     the policy that training starts from, where it had to be merged with its adapter
    OUTPUT/prompts/train.jsonl       what TRL reads; job.json besides
    OUTPUT/training/                 TRL's output folder with its checkpoints; training.log beside it
    OUTPUT/evaluated/start, trained  greedy answers and their scores
    OUTPUT/policy/                   the trained policy: an ordinary checkpoint with a card
    OUTPUT/rl.md, rl.json            implicit reward and oracle before and after; reward, KL and length by step

A killed run goes on where it stopped: training from TRL's last checkpoint, answers one by one.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError
from aad_plugin.files.run_folder import read_account
from aad_plugin.files.whole import making_folder, write_text
from aad_plugin.harness.arguments import loading_args
from aad_plugin.harness.asking import identity, scorer_weights
from aad_plugin.judges.kinds.reward import refuse_twins
from aad_plugin.sources.arguments import take_source, take_template_args
from aad_plugin.sources.merging import full_checkpoints, merge_adapter
from aad_plugin.sources.parts import PairSource
from aad_plugin.texts.prompts import PromptSet, refuse_overlap
from aad_plugin.training.evaluation import (
    Evaluation,
    beside_one_base,
    check_model_args,
    evaluate,
    load_scorer,
    refuse_guided,
)
from aad_plugin.training.implicit_reward import VARIABLE
from aad_plugin.training.one_model_table import write_outcome
from aad_plugin.training.oracle_prompts import warn_of_known_prompts
from aad_plugin.training.owning import (
    context_of,
    free,
    merging_dtype,
    owned,
    refuse_counted_padding,
    take_up,
    template_words,
    without_secrets,
    write_rows,
)
from aad_plugin.training.recipes import read_recipe
from aad_plugin.training.rounds import start_checkpoint
from aad_plugin.training.trl_command import (
    check_trl,
    last_checkpoint,
    log_history,
    run_trainer,
    run_trl,
)

logger = logging.getLogger(__name__)

OLDEST_TRL = (1, 16)
RECIPES = {
    "grpo-implicit": "TRL's GRPO, rewarded by the pair's implicit reward",
    "rloo-implicit": "TRL's RLOO, likewise",
    "grpo-rollouts": "GRPO whose groups hold answers that the pair drew",
}


@dataclass(frozen=True)
class Plan:
    """What `reinforce` is to do.

    Args:
        prompts: trained on. held_out: their greedy answers' implicit reward is told before and after. oracle_prompts: the
            oracle's; no prompt stands in two sets. oracle: "reward:<model>", only reported.
        recipe: one of :data:`RECIPES`. training: file of TRL's options.
        reward: "implicit", or for grpo-rollouts "reward:<model>" other than the oracle. per_token: divide the implicit
            reward by the answer's length.
        share: of each group that the pair draws, 0 < share < 1, grpo-rollouts alone. alpha: of its plausible set.
        temperature: of softmax over its advantages.
    """

    prompts: PromptSet
    held_out: PromptSet
    oracle_prompts: PromptSet
    oracle: str
    recipe: str
    training: Path
    reward: str = "implicit"
    per_token: bool = False
    share: float = 0.0
    alpha: float = 0.1
    temperature: float = 0.25
    trl_arguments: tuple[str, ...] = ()
    batch_size: int = 8
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ConfigError(f"--recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        if not self.oracle.startswith("reward:"):
            raise ConfigError(f"--oracle must be reward:<model>, got {self.oracle!r}")
        if self.mixes and not 0 < self.share < 1:
            raise ConfigError(
                f"--share of grpo-rollouts must be above 0 and below 1, got {self.share:g}: the part of each group that "
                "the pair draws"
            )
        if not self.mixes and self.share:
            raise ConfigError(
                f"--share {self.share:g}: TRL corrects for answers that others drew only under vLLM, so {self.recipe} "
                "takes none; --recipe grpo-rollouts has a correction of its own"
            )
        if self.reward != "implicit" and not (self.mixes and self.reward.startswith("reward:")):
            raise ConfigError(
                f"--reward must be implicit, or with grpo-rollouts reward:<model>, got {self.reward!r} for {self.recipe}"
            )
        if self.per_token and self.reward != "implicit":
            raise ConfigError(
                f"--per-token divides the implicit reward by length, and --reward is {self.reward}: leave it out"
            )
        if self.reward == self.oracle:
            raise ConfigError(f"--reward and --oracle are both {self.oracle}: what is optimised cannot measure itself")
        if not self.temperature > 0:
            raise ConfigError(f"--teacher-temperature must be above 0, got {self.temperature:g}")
        refuse_overlap(prompts=self.prompts, held_out_prompts=self.held_out, oracle_prompts=self.oracle_prompts)

    @property
    def mixes(self) -> bool:
        """Whether groups hold answers of the pair."""
        return self.recipe == "grpo-rollouts"

    def asked(self, model_args: dict[str, Any]) -> dict[str, Any]:
        """What decides the outcome."""
        mixing = {"share": self.share, "alpha": self.alpha, "temperature": self.temperature} if self.mixes else {}
        return {
            "model_args": identity(model_args), "recipe": self.recipe, "reward": self.reward,
            "per_token": self.per_token, **mixing, "prompts": self.prompts.digest,
            "held_out_prompts": self.held_out.digest, "oracle_prompts": self.oracle_prompts.digest,
            "training": read_recipe(self.training), "trl_arguments": list(self.trl_arguments), "oracle": self.oracle,
            "max_new_tokens": self.max_new_tokens, **scorer_weights(self.oracle, self.reward),
        }  # fmt: skip


def reinforce(folder: Path, plan: Plan, model_args: dict[str, Any]) -> dict[str, Any]:
    """Train and report; blocks for as long as that takes.

    Args:
        folder: for everything. model_args: the pair and its options, as for ``--model aad``.
    Returns:
        the figures of ``rl.json``.
    Raises:
        ConfigError: see `Plan`; another run holds the folder. BackendMissing: no TRL, or one too old. TrainingFailed: TRL
        ended with an error.
    """
    check_trl(OLDEST_TRL)
    check_model_args(model_args)
    refuse_twins(plan.oracle, plan.reward)
    options = dict(model_args)
    source = take_source(options)
    refuse_guided(source, "reward")
    with owned(folder, "rl"):
        asked = plan.asked(model_args)
        drawn = take_up(
            folder, asked, "another training", plan.recipe.partition("-")[0], plan.training,
            more=plan.trl_arguments, num_prompts=len(plan.prompts),
        )  # fmt: skip
        warn_of_known_prompts(plan.oracle, plan.oracle_prompts.prompts)
        scorers = (load_scorer("implicit", model_args), load_scorer(plan.oracle, model_args))
        dtype = merging_dtype(model_args, plan.training, plan.trl_arguments)
        refuse_counted_padding(source.backbone)
        start = start_checkpoint(folder, source, dtype)
        reference = full_checkpoints(source, dtype)[1]
        _train(folder, plan, start, model_args, context_of(start, reference), drawn.tokens or 0)
        trained = folder / "training"
        args = {"policy": start, "reference": reference, **options}
        if (trained / "adapter_config.json").is_file():
            after_args = {"reference": start, "adapter": str(trained.resolve()), **beside_one_base(options)}
        else:
            after_args = {"policy": str(trained.resolve()), "reference": reference, **options}
        found: dict[str, Evaluation] = {}
        for name, one in (("start", args), ("trained", after_args)):
            found[name] = evaluate(
                folder / "evaluated" / name, one, plan.held_out, plan.oracle_prompts, scorers, engine="hf",
                batch_size=plan.batch_size, max_new_tokens=plan.max_new_tokens,
            )  # fmt: skip
            free()
        about = {**asked, "policy": str(folder / "policy")}
        figures = write_outcome(folder, "rl", found["start"], found["trained"], log_history(trained), about)
        _write_policy(folder, plan, start, source, figures, dtype)
        return figures


def _train(
    folder: Path, plan: Plan, start: str, model_args: dict[str, Any], context: int | None, new_tokens: int
) -> None:
    finished = folder / "trained.json"
    if read_account(finished):
        return
    from transformers import AutoTokenizer

    prompts = folder / "prompts" / "train.jsonl"
    template_args, pair_args = take_template_args(dict(model_args)), loading_args(model_args)
    tokenizer = AutoTokenizer.from_pretrained(start)
    write_rows(prompts, plan.prompts.prompts, tokenizer, template_args, context=context, new_tokens=new_tokens)
    where: dict[str, Any] = {"output": folder / "training", "log": folder / "training.log", "mark": folder}
    words = ["--config", str(plan.training), *plan.trl_arguments, *template_words(template_args)]
    logger.info("training on %d prompts; the bar tells how long it will take", len(plan.prompts))
    if plan.mixes:
        reward = "implicit_per_token" if plan.per_token and plan.reward == "implicit" else plan.reward
        plain, secrets = without_secrets(pair_args)
        job = {
            "pair": plain, "share": plan.share, "alpha": plan.alpha, "temperature": plan.temperature,
            "start": start, "prompts": str(prompts.resolve()), "reward": reward,
        }  # fmt: skip
        write_text(folder / "job.json", json.dumps(job, indent=1, default=str) + "\n")
        worker = ["aad_plugin.training.rl_worker", str(folder / "job.json"), *words]
        run_trainer(worker, what="GRPO on mixed groups", **where, variables=secrets)
    else:
        command = plan.recipe.partition("-")[0]
        function = "implicit_reward_per_token" if plan.per_token else "implicit_reward"
        words += ["--model_name_or_path", start, "--dataset_name", str(prompts.parent.resolve())]
        words += ["--reward_funcs", f"aad_plugin.training.implicit_reward.{function}"]
        run_trl(command, words, **where, variables={VARIABLE: json.dumps(pair_args, default=str)})
    write_text(finished, json.dumps({"last_checkpoint": str(last_checkpoint(where["output"]))}) + "\n")


def _write_policy(
    folder: Path, plan: Plan, start: str, source: PairSource, figures: dict[str, Any], dtype: str
) -> None:
    trained, target = folder / "training", folder / "policy"
    if (trained / "adapter_config.json").is_file():
        merge_adapter(start, str(trained), dtype, target)
    elif not target.is_dir():
        with making_folder(target) as part:
            leave = shutil.ignore_patterns("checkpoint-*", "*.bin", "runs")
            shutil.copytree(trained, part, ignore=leave, dirs_exist_ok=True)
    before, after = figures["start"], figures["trained"]
    parts = "\n".join(f"* {name}: `{value}`" for name, value in source.parts().items())
    write_text(
        target / "README.md",
        f"---\nbase_model: {start}\ntags: [{plan.recipe}, alignment-aware-decoding]\n---\n\n"
        "# A policy optimised with its pair\n\n"
        f"Trained by `aad rl --recipe {plan.recipe}` ({RECIPES[plan.recipe]}) on {len(plan.prompts)} prompts.\n\n"
        f"{parts}\n\nImplicit reward of held-out answers: {before['picker_mean']:.3f} before, "
        f"{after['picker_mean']:.3f} after. Oracle {plan.oracle}: {before['oracle_mean']:.3f} before, "
        f"{after['oracle_mean']:.3f} after.\n\nOrdinary greedy decoding, no plugin: `lm_eval --model hf "
        "--model_args pretrained=<this folder>`, `vllm serve <this folder>`.\n",
    )
