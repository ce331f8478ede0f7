"""A pair into one model: the function behind ``aad distill``.

    OUTPUT/prompts.jsonl, job.json   what the training process reads
    OUTPUT/training/                 TRL's output folder with its checkpoints; training.log beside it
    OUTPUT/evaluated/start, step-N   greedy answers and their scores
    OUTPUT/student/                  the chosen checkpoint: an ordinary Hugging Face folder with a card
    OUTPUT/distill.md, distill.json

A killed run goes on where it stopped: training from TRL's last checkpoint, answers one by one.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aad_plugin.errors import ConfigError, first_line
from aad_plugin.files.run_folder import read_account
from aad_plugin.files.whole import making_folder, write_text
from aad_plugin.harness.arguments import loading_args
from aad_plugin.harness.asking import identity, local_files, scorer_weights
from aad_plugin.judges.kinds.reward import refuse_twins
from aad_plugin.sources.arguments import take_source, take_template_args
from aad_plugin.sources.merging import full_checkpoints, merge_adapter, with_template
from aad_plugin.sources.parts import PairSource
from aad_plugin.sources.vocabulary import shared_vocab_size
from aad_plugin.texts.prompts import PromptSet, refuse_overlap
from aad_plugin.training.evaluation import (
    Scorer,
    beside_one_base,
    check_model_args,
    evaluate,
    greedy_answers,
    load_scorer,
    refuse_guided,
)
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
from aad_plugin.training.trl_command import check_trl, log_history, run_trainer

logger = logging.getLogger(__name__)

OLDEST_TRL = (1, 16)  # the first whose DistillationTrainer is no experiment
TEACHERS = ("aad", "eft")
DIVERGENCES = {"forward-kl": 0.0, "jsd": 0.5, "reverse-kl": 1.0}
STUDENTS = ("policy", "weights")
_NOTHING_TO_LEARN = (
    "--teacher eft --scale 1 is the policy itself, which is the student: there is nothing to learn; take a scale above "
    "1, or another student"
)
_KEPT = (".safetensors", ".json", ".jinja", ".model", ".txt")
_TRAINERS = ("trainer_state.json",)
_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)  # its default, then what else --max-lora-rank takes


@dataclass(frozen=True)
class Plan:
    """What `distill` is to do.

    Args:
        prompts: the student answers these in training. held_out: the picker's. oracle_prompts: the oracle's; no prompt
            stands in two of them.
        training: the recipe's file. oracle: "reward:<model>", only reported. picker: "reward:<model>" or "implicit",
            chooses the checkpoint; another model than the oracle.
        teacher: "aad" or "eft". scale: EFT's. alpha: AAD's. temperature: of softmax over AAD's advantages, > 0.
        divergence: one of :data:`DIVERGENCES`. student: "policy" (its LoRA goes on; of two checkpoints its weights),
            "weights" (the policy's merged), or a checkpoint of the same vocabulary.
        trl_arguments: more of TRL's options. batch_size, max_new_tokens: of answers that are evaluated.
    """

    prompts: PromptSet
    held_out: PromptSet
    oracle_prompts: PromptSet
    training: Path
    oracle: str
    picker: str
    teacher: str = "aad"
    scale: float = 1.5
    alpha: float = 0.1
    temperature: float = 0.25
    divergence: str = "forward-kl"
    student: str = "policy"
    trl_arguments: tuple[str, ...] = ()
    batch_size: int = 8
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.teacher not in TEACHERS:
            raise ConfigError(f"--teacher must be aad or eft, got {self.teacher!r}")
        if self.divergence not in DIVERGENCES:
            raise ConfigError(f"--divergence must be one of {', '.join(DIVERGENCES)}, got {self.divergence!r}")
        if self.teacher == "aad" and self.divergence == "reverse-kl":
            raise ConfigError(
                "--divergence reverse-kl is infinite for --teacher aad, which gives no mass outside its plausible set: "
                "take forward-kl or jsd"
            )
        if not self.temperature > 0:
            raise ConfigError(f"--teacher-temperature must be above 0, got {self.temperature:g}")
        if self.teacher == "eft" and self.scale == 1 and self.student in STUDENTS:
            raise ConfigError(_NOTHING_TO_LEARN)
        if not self.oracle.startswith("reward:"):
            raise ConfigError(f"--oracle must be reward:<model>, got {self.oracle!r}")
        if self.picker == self.oracle:
            raise ConfigError(
                f"--picker and --oracle are both {self.oracle}: what chose the checkpoint cannot measure it; take two"
            )
        refuse_overlap(prompts=self.prompts, held_out_prompts=self.held_out, oracle_prompts=self.oracle_prompts)

    def asked(self, model_args: dict[str, Any]) -> dict[str, Any]:
        """What decides the outcome."""
        strength = {"scale": self.scale} if self.teacher == "eft" else {
            "alpha": self.alpha, "temperature": self.temperature,
        }  # fmt: skip
        return {
            "model_args": identity(model_args), "teacher": self.teacher, **strength, "divergence": self.divergence,
            "student": self.student, "prompts": self.prompts.digest, "held_out_prompts": self.held_out.digest,
            "oracle_prompts": self.oracle_prompts.digest, "training": read_recipe(self.training),
            "trl_arguments": list(self.trl_arguments), "picker": self.picker, "oracle": self.oracle,
            "max_new_tokens": self.max_new_tokens, **scorer_weights(self.oracle, self.picker),
            **self._student_files(),
        }  # fmt: skip

    def _student_files(self) -> dict[str, str]:
        """A mark of a student's folder, whose files may change under their name."""
        mark = None if self.student in STUDENTS else local_files(self.student)
        return {"student_files": mark} if mark else {}


@dataclass(frozen=True)
class _Start:
    """Where the student starts: a checkpoint, and the adapter on it that goes on being trained, or None.

    ``reference`` stands beside whole weights where a pair is loaded for their greedy answers.
    """

    checkpoint: str
    adapter: str | None
    reference: str
    dtype: str  # of what is merged

    def model_args(self, trained: Path | None, options: dict[str, Any]) -> dict[str, Any]:
        """The student, as given or trained, as the policy of a pair whose greedy answers are asked."""
        if trained is not None and not (trained / "adapter_config.json").is_file():
            return {"policy": str(trained.resolve()), "reference": self.reference, **options}
        adapter = self.adapter if trained is None else str(trained.resolve())
        if adapter is not None:
            return {"reference": self.checkpoint, "adapter": adapter, **beside_one_base(options)}
        return {"policy": self.checkpoint, "reference": self.reference, **options}


def distill(folder: Path, plan: Plan, model_args: dict[str, Any]) -> dict[str, Any]:
    """Train, choose a checkpoint, report; blocks for as long as that takes.

    Args:
        folder: for everything. model_args: the teacher pair and its options, as for ``--model aad``.
    Returns:
        the figures of ``distill.json``.
    Raises:
        ConfigError: see `Plan`; another run holds the folder. VocabMismatch: the student has other tokens.
        BackendMissing: no TRL, or one too old. TrainingFailed: TRL ended with an error.
    """
    check_trl(OLDEST_TRL)
    check_model_args(model_args)
    options = dict(model_args)
    source = take_source(options)
    refuse_guided(source, "teacher")
    _check_student(source, plan)
    refuse_twins(plan.oracle, plan.picker)
    with owned(folder, "distill"):
        asked = plan.asked(model_args)
        drawn = take_up(
            folder, asked, "another distillation", "distillation", plan.training,
            more=plan.trl_arguments, num_prompts=len(plan.prompts),
        )  # fmt: skip
        warn_of_known_prompts(plan.oracle, plan.oracle_prompts.prompts)
        start = _start(source, plan, merging_dtype(model_args, plan.training, plan.trl_arguments))
        if plan.teacher == "eft":
            refuse_counted_padding(start.checkpoint)
        scorers = (load_scorer(plan.picker, model_args), load_scorer(plan.oracle, model_args))
        _train(folder, plan, source, start, model_args, drawn.tokens or 0)
        return _choose(folder, plan, start, options, scorers, source, asked)


def _check_student(source: PairSource, plan: Plan) -> None:
    """Raise VocabMismatch or ConfigError for a checkpoint that cannot learn from the pair, or not anything."""
    if plan.student in STUDENTS:
        return
    from transformers import AutoConfig, AutoTokenizer

    if plan.teacher == "eft" and plan.scale == 1 and _same_place(plan.student, source.policy):
        raise ConfigError(_NOTHING_TO_LEARN)
    try:
        AutoConfig.from_pretrained(plan.student)
        own = AutoTokenizer.from_pretrained(plan.student)
    except (ImportError, OSError, ValueError) as e:
        raise ConfigError(f"--student {plan.student}: no model with a tokenizer there: {first_line(e)}") from e
    shared_vocab_size(AutoTokenizer.from_pretrained(source.tokenizer), own, ("pair", "student"))


def _same_place(one: str, other: str | None) -> bool:
    """Whether two checkpoints have one name, or are one folder."""
    return other is not None and Path(one).resolve() == Path(other).resolve()


def _start(source: PairSource, plan: Plan, dtype: str) -> _Start:
    """Where the student starts."""
    if plan.student == "policy" and source.shares_base:
        base = str(source.base or source.reference)
        return _Start(base, str(source.adapter), base, dtype)
    policy, reference = full_checkpoints(source, dtype)
    if plan.student in STUDENTS:
        return _Start(policy, None, reference, dtype)
    return _Start(plan.student, None, reference, dtype)


def _train(
    folder: Path, plan: Plan, source: PairSource, start: _Start, model_args: dict[str, Any], new_tokens: int
) -> None:
    if read_account(folder / "trained.json"):
        return
    from transformers import AutoTokenizer

    template_args = take_template_args(dict(model_args))
    home = plan.student
    if plan.student in STUDENTS:
        home = with_template(source) if source.shares_base else source.tokenizer
    write_rows(
        folder / "prompts.jsonl", plan.prompts.prompts, AutoTokenizer.from_pretrained(home), template_args,
        context=context_of(start.checkpoint, start.reference), new_tokens=new_tokens,
    )  # fmt: skip
    pair, secrets = without_secrets(loading_args(model_args))
    job = {
        "pair": pair, "teacher": plan.teacher, "scale": plan.scale, "alpha": plan.alpha,
        "teacher_temperature": plan.temperature, "beta": DIVERGENCES[plan.divergence], "student": start.checkpoint,
        "adapter": start.adapter, "tokenizer": home,
        "prompts": str((folder / "prompts.jsonl").resolve()),
    }  # fmt: skip
    write_text(folder / "job.json", json.dumps(job, indent=1, default=str) + "\n")
    logger.info("training on %d prompts; the bar tells how long it will take", len(plan.prompts))
    run_trainer(
        ["aad_plugin.training.distill_worker", str(folder / "job.json"), "--config", str(plan.training),
         *plan.trl_arguments, *template_words(template_args)],
        what="distillation", output=folder / "training", log=folder / "training.log", mark=folder, variables=secrets,
    )  # fmt: skip
    if not _checkpoints(folder):
        raise ConfigError(f"the training left no checkpoint in {folder / 'training'}: lower save_steps in the recipe")
    write_text(folder / "trained.json", json.dumps({"checkpoints": [n for n, _ in _checkpoints(folder)]}) + "\n")


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    found = [(path.name.removeprefix("checkpoint-"), path) for path in (folder / "training").glob("checkpoint-*")]
    whole = [(int(step), path) for step, path in found if step.isdigit() and (path / "trainer_state.json").is_file()]
    return sorted(whole)


def _choose(
    folder: Path,
    plan: Plan,
    start: _Start,
    options: dict[str, Any],
    scorers: tuple[Scorer, Scorer],
    source: PairSource,
    asked: dict[str, Any],
) -> dict[str, Any]:
    asking: dict[str, Any] = {"engine": "hf", "batch_size": plan.batch_size, "max_new_tokens": plan.max_new_tokens}
    picked: dict[int, float] = {}
    for step, path in _checkpoints(folder):
        home = folder / "evaluated" / f"step-{step}"
        (texts,) = greedy_answers(
            home, start.model_args(path, options), {f"step {step}: held-out prompts": plan.held_out}, **asking
        )
        free()
        scores = scorers[0](plan.held_out.prompts, texts)
        picked[step] = sum(scores) / len(scores)
    step, path = max(_checkpoints(folder), key=lambda one: picked[one[0]])
    both = (plan.held_out, plan.oracle_prompts, scorers)
    before = evaluate(folder / "evaluated" / "start", start.model_args(None, options), *both, **asking)
    free()
    after = evaluate(folder / "evaluated" / f"step-{step}", start.model_args(path, options), *both, **asking)
    free()
    if after.held_out.mean <= before.held_out.mean:
        logger.warning("the picker prefers the student as it was (%.3f) to every checkpoint", before.held_out.mean)
    about = {**asked, "chosen_step": step, "picker_by_step": picked, "output": str(folder / "student")}
    figures = write_outcome(folder, "distill", before, after, log_history(folder / "training"), about)
    _write_student(folder, plan, start, path, source, figures)
    return figures


def _write_student(
    folder: Path, plan: Plan, start: _Start, checkpoint: Path, source: PairSource, figures: dict[str, Any]
) -> None:
    """Write the chosen checkpoint as any host takes it: the policy's LoRA, or whole weights."""
    target = folder / "student"
    if target.is_dir():
        shutil.rmtree(target)
    is_adapter = (checkpoint / "adapter_config.json").is_file()
    if is_adapter and start.adapter is None:  # a fresh LoRA on weights that lie somewhere here
        merge_adapter(start.checkpoint, str(checkpoint), start.dtype, target)
        is_adapter = False
    else:
        with making_folder(target) as part:
            for file in checkpoint.iterdir():
                if file.suffix in _KEPT and file.name not in _TRAINERS:
                    shutil.copy(file, part / file.name)
    write_text(target / "README.md", _card(target, plan, start, source, is_adapter, figures))


def _max_rank(adapter: Path) -> str:
    """vLLM's option for an adapter of a higher rank than it takes by default."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()])
    taken = next((one for one in _VLLM_RANKS if one >= rank), rank)
    return "" if taken == _VLLM_RANKS[0] else f" --max-lora-rank {taken}"


def _card(
    target: Path, plan: Plan, start: _Start, source: PairSource, is_adapter: bool, figures: dict[str, Any]
) -> str:
    teacher = (
        f"emulated fine-tuning at scale {plan.scale:g}"
        if plan.teacher == "eft"
        else f"alignment-aware decoding, alpha {plan.alpha:g}, softmax(advantage / {plan.temperature:g})"
    )
    parts = "\n".join(f"* {name}: `{value}`" for name, value in source.parts().items())
    use = (
        f"`lm_eval --model hf --model_args pretrained={start.checkpoint},peft=<this folder>`, `vllm serve "
        f"{start.checkpoint} --enable-lora{_max_rank(target)} --lora-modules student=<this folder>`; as a pair's policy "
        f"again: `--reference {start.checkpoint} --adapter <this folder>`"
        if is_adapter
        else "`lm_eval --model hf --model_args pretrained=<this folder>`, `vllm serve <this folder>`; as a pair's policy "
        "again: `--policy <this folder> --reference <the reference above>`"
    )
    before, after = figures["start"], figures["trained"]
    return (
        f"---\nbase_model: {start.checkpoint}\ntags: [distillation, alignment-aware-decoding]\n---\n\n"
        "# One model of a pair\n\n"
        f"Trained by `aad distill` (TRL's DistillationTrainer, {plan.divergence}) on its own answers to "
        f"{len(plan.prompts)} prompts, with a pair as its teacher: {teacher}.\n\n{parts}\n* student: `{plan.student}`, "
        f"step {figures['about']['chosen_step']}, chosen by {plan.picker}\n\n"
        f"Oracle {plan.oracle} on {after['oracle_n']} other prompts: {before['oracle_mean']:.3f} before, "
        f"{after['oracle_mean']:.3f} after; mean length {before['characters']:.0f} and {after['characters']:.0f} "
        "characters.\n\n"
        f"Ordinary greedy decoding, no plugin: {use}.\n"
    )
