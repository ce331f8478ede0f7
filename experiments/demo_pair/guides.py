"""Two small guides over the demo's base, one for helpfulness and one for brevity: each a LoRA that DPO trains in minutes.

python -m experiments.demo_pair.guides --work runs/guides
    30 steps of 4 pairs for each on two CPU cores, float32. The same command goes on after a kill, from TRL's last whole
    checkpoint. It ends with runs/guides/out/helpfulness and runs/guides/out/brevity, for
    guide=HELPFULNESS+BREVITY,guide_reference=BASE+BASE, and prints the command that draws their front
python -m experiments.demo_pair.guides --work runs/tiny --base DIR --trl "--max_steps 2"
    a rehearsal on something tiny

helpfulness: the demo pair's preferences about dialogue, whose sides are about equally long (`pairs.balance`).
brevity: the same prompts, and good answers alone, those that helpfulness chose. Where a prompt has two of different length
and the shorter one ended by itself, that one is chosen over the other. Where a good answer has a sentence that ends within
its first 70 percent, at `pairs.MIN_TOKENS` tokens or later, the text up to the first such end is chosen over the whole.

Prompts that the demo pair held out are held out here. None is a prompt of the demo task.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from aad_plugin.cli.main import plain_errors
from aad_plugin.demo.assets import base_model_path
from aad_plugin.files.run_folder import keep_asked
from aad_plugin.training.owning import owned
from aad_plugin.training.recipes import recipe_path
from aad_plugin.training.trl_command import end_orphans, run_trl
from experiments.demo_pair import training
from experiments.demo_pair.measure import token_counter
from experiments.demo_pair.pairs import MIN_TOKENS, Pair
from experiments.demo_pair.shipped import shipped_pairs

RECIPE = "loss_sigmoid"
STEPS = 30
AIMS = ("helpfulness", "brevity")
MOST_OF_THE_WHOLE = 0.7
_SENTENCE_END = re.compile(r"[^\s.!?]{3,}[.!?](?=\s)")  # no end: the "1." of a list


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing."""
    options = _options(arguments)
    work: Path = options.work
    base = Path(options.base) if options.base else base_model_path()
    asked = {"base": str(base), "recipe": RECIPE, "steps": STEPS, "trl": options.trl}
    with owned(work, "guides"):
        keep_asked(work, asked, "other guides", "--work")
        end_orphans(work)
        opened = training.open_base(base, work / "base")
        for aim, pairs in preferences(token_counter(base)).items():
            training.write_sets(pairs, work / "sets" / aim, mark_cut=True)
            _train(aim, base, opened, work, shlex.split(options.trl))
    out = [str(work / "out" / aim) for aim in AIMS]
    print(f"python -m experiments.guide_weights --model-args policy={base},guide={'+'.join(out)},"
          f"guide_reference={base}+{base},dtype=float32 --prompts tasks/demo/dialogue/prompts.jsonl --oracle reward:demo "
          f"--output {work / 'weights'}")  # fmt: skip


def preferences(count_tokens: Callable[[str], int]) -> dict[str, list[Pair]]:
    """Return the preference pairs of each aim, train and held-out prompts alike.

    Args:
        count_tokens: length of a text in the base's tokens.
    """
    dialogue = shipped_pairs("demo@1", "policy")  # the first demo pair knew dialogue alone
    return {"helpfulness": dialogue, "brevity": brevity_pairs(dialogue, count_tokens)}


def brevity_pairs(dialogue: Sequence[Pair], count_tokens: Callable[[str], int]) -> list[Pair]:
    """Return pairs of two good answers of which the shorter is chosen, as the module's head says."""
    good: dict[str, dict[str, Pair]] = {}
    for pair in dialogue:
        good.setdefault(pair.prompt, {})[pair.chosen] = pair
    found = []
    for texts in good.values():
        for pair in texts.values():
            if (start := _first_sentences(pair.chosen, count_tokens)) is not None:
                found.append(_pair("first_sentences", pair, start, count_tokens(start)))
        for one, other in itertools.combinations(texts.values(), 2):
            short, long = sorted((one, other), key=lambda pair: pair.chosen_tokens)
            if short.chosen_tokens < long.chosen_tokens and short.chosen_ended:
                found.append(_pair("shorter_answer", long, short.chosen, short.chosen_tokens))
    return found


def _first_sentences(text: str, count_tokens: Callable[[str], int]) -> str | None:
    most = MOST_OF_THE_WHOLE * count_tokens(text)
    starts = (text[: match.end()] for match in _SENTENCE_END.finditer(text))
    start = next((start for start in starts if count_tokens(start) >= MIN_TOKENS), None)
    return start if start is not None and count_tokens(start) <= most else None


def _pair(kind: str, long: Pair, chosen: str, num_tokens: int) -> Pair:
    """One preference against the good answer of another pair."""
    return Pair(long.prompt_id, kind, long.held_out, long.prompt, chosen, long.chosen, num_tokens, long.chosen_tokens,
                True, long.chosen_ended)  # fmt: skip


def _train(aim: str, base: Path, opened: Path, work: Path, more: list[str]) -> None:
    """Train one guide, or go on with it; what TRL leaves becomes an adapter of the base as it was given."""
    out = work / "out" / aim
    if (out / "adapter_config.json").is_file():
        return
    given = ["--config", str(recipe_path(RECIPE)), "--model_name_or_path", str(opened), "--max_steps", str(STEPS)]
    given += ["--save_steps", "2", "--dataset_name", str((work / "sets" / aim).resolve()), *more]
    run_trl("dpo", given, output=work / "training" / aim, log=work / f"{aim}.log", mark=work)
    training.export_adapter(work / "training" / aim, out, base=str(base))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo_pair.guides",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of sets, checkpoints and guides")
    parser.add_argument("--base", help="what both start from; default the demo's base")
    parser.add_argument("--trl", default="", help='more options of trl: "--max_steps 2"')
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with plain_errors():
        main()
