r"""Does a loss that makes a better policy make a better advantage? Train one policy per loss from one start, then compare.

python -m experiments.demo_pair.losses --work runs/losses --prompts alpaca_eval.json --oracle reward:demo@1 \
    --trl "--max_steps 54"
    eight losses on the demo base and the 216 dialogues that demo@1 learned from, read once, 200 short prompts × 64 tokens;
    then, for the two with the best AAD reward, two more seeds. The same command goes on after a kill, from TRL's last whole
    checkpoint and answer by answer.
python -m experiments.demo_pair.losses … --only sigmoid,ipo
    trains and reads these alone; two such commands may work in one folder, and the first command makes the table of both
python -m experiments.demo_pair.losses … --base DIR --trl "--max_steps 3" --num-prompts 4 --losses sigmoid,orpo
    a rehearsal on something tiny

The oracle should have been trained on other preferences than the policies; `aad study` warns of what it knows.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path

from filelock import FileLock

from aad_plugin.cli.main import plain_errors
from aad_plugin.cli.pair_options import NamedPair
from aad_plugin.cli.study_pairs import find_pairs, run_one, run_pairs
from aad_plugin.demo.assets import base_model_path
from aad_plugin.files.run_folder import keep_asked
from aad_plugin.study.plan import StudyPlan
from aad_plugin.study.prompts import draw_splits, read_prompts
from aad_plugin.texts.messages import as_messages
from aad_plugin.texts.preferences import read_preferences
from aad_plugin.training.losses import LOSSES, loss_named
from aad_plugin.training.owning import owned
from aad_plugin.training.recipes import recipe_path
from aad_plugin.training.trl_command import end_orphans, run_trl
from experiments.demo_pair import shipped, training


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing and study it."""
    options = _options(arguments)
    work = options.work
    base = Path(options.base) if options.base else base_model_path()
    names: list[str] = options.losses.split(",")
    for name in names:
        loss_named(name)  # a typo is refused before anything is trained
    asked = {"base": str(base), "preferences": options.preferences or "demo@1", "trl": options.trl}
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / ".lock"):  # another process waits for the moment that it takes
        keep_asked(work, asked, "other policies", "--work")
        preferences, held_out, start = _sets(options, base)

    def made(loss: str, seed: int) -> Path:
        return train(loss, seed, base, preferences, work, options.trl, start=start)

    if options.only:
        for name, seed in map(_seeded, options.only.split(",")):
            study_one(name, seed, made(name, seed), base, held_out, options)
        return
    first = {name: made(name, 0) for name in names}
    study(first, base, held_out, work / "study", options)
    best = _best(work / "study", options.more_seeds_of)
    more = {_named(name, seed): made(name, seed) for name in best for seed in range(1, options.seeds)}
    if more:
        for name in best:  # read already
            shutil.copytree(work / "study" / name, work / "study-seeds" / name, dirs_exist_ok=True)
        study({**{name: first[name] for name in best}, **more}, base, held_out, work / "study-seeds", options)


def train(
    loss: str, seed: int, base: Path, preferences: Path, work: Path, trl: str, *, start: Path | None = None
) -> Path:
    """Train one policy by one loss and return its folder; goes on from the last whole checkpoint.

    Args:
        start: what TRL loads, the same weights as base; default base.
    """
    out, folder = work / "policies" / f"{loss}-{seed}", work / "training" / f"{loss}-{seed}"
    if (out / "README.md").is_file():
        return out
    one = loss_named(loss)
    with owned(folder, "losses"):
        end_orphans(folder)
        given = ["--config", str(recipe_path(one.recipe)), "--model_name_or_path", str(start or base)]
        given += ["--dataset_name", str(preferences.resolve()), "--seed", str(seed), *shlex.split(trl)]
        run_trl(one.command, given, output=folder, log=work / f"{loss}-{seed}.log", mark=folder)
        training.export_adapter(folder, out, base=str(base))
        shutil.copy(folder / "README.md", out)  # TRL's card, by which `aad study` knows a loss without a reference
    return out


def study(policies: dict[str, Path], base: Path, held_out: Path, output: Path, options: argparse.Namespace) -> None:
    """Put policies into one table, `aad study --pairs`."""
    named = find_pairs(NamedPair(_over(base)), [f"{name}={folder}" for name, folder in policies.items()])
    run_pairs(named, output, _plan(options), held_out, None)


def study_one(loss: str, seed: int, policy: Path, base: Path, held_out: Path, options: argparse.Namespace) -> None:
    """Answer and score for one policy, where its table will look for it."""
    folder = options.work / ("study-seeds" if seed else "study") / _named(loss, seed)
    run_one(NamedPair({**_over(base), "adapter": str(policy)}), folder, _plan(options), read_preferences(held_out))


def _over(base: Path) -> dict[str, str]:
    return {"reference": str(base), "dtype": "float32"}


def _plan(options: argparse.Namespace) -> StudyPlan:
    prompts = [
        one
        for one in read_prompts(options.prompts)
        if len(str(as_messages(one)[-1]["content"])) <= options.max_characters
    ]
    table, dev = draw_splits(prompts, options.num_prompts, options.num_dev, 0)
    alphas = tuple(float(alpha) for alpha in options.alphas.split(","))
    return StudyPlan(table, dev, options.oracle, num_curve=0, num_extra=0, num_beams=0, eft_scales=(), alphas=alphas,
                     max_new_tokens=options.max_new_tokens, batch_size=options.batch_size)  # fmt: skip


def _named(loss: str, seed: int) -> str:
    return f"{loss}-seed{seed}" if seed else loss


def _seeded(name: str) -> tuple[str, int]:
    """The loss and the seed of a policy's name in the tables."""
    loss, _, seed = name.partition("-seed")
    loss_named(loss)
    return loss, int(seed or 0)


def _best(folder: Path, number: int) -> list[str]:
    """The losses with the largest mean AAD reward."""
    found = json.loads((folder / "pair_table.json").read_text(encoding="utf-8"))
    return sorted(found, key=lambda name: -found[name]["aad"])[:number]


def _sets(options: argparse.Namespace, base: Path) -> tuple[Path, Path, Path]:
    """Folder of training preferences, file of held-out ones, what to start from: as given, or as `demo@1` was trained."""
    if options.preferences:
        return Path(options.preferences), Path(options.held_out), base
    folder, start = options.work / "sets" / "policy", options.work / "base"
    if not start.is_dir():  # another command may be training from it
        training.write_sets(shipped.shipped_pairs("demo@1", "policy"), folder, mark_cut=True)
        training.open_base(base, start)
    return folder, folder.parent / "policy_held_out.jsonl", start


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.demo_pair.losses",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of policies, rows and tables")
    parser.add_argument("--prompts", required=True, help="as `aad study` reads them")
    parser.add_argument("--oracle", required=True, help="reward:<model>")
    parser.add_argument("--base", help="start of every training; default the demo's base")
    parser.add_argument("--preferences", help="folder with train.jsonl; default the demo pair's")
    parser.add_argument("--held-out", help="JSONL of held-out preferences; with --preferences")
    parser.add_argument("--losses", default=",".join(LOSSES))
    parser.add_argument("--only", default="", help="these alone, such as sigmoid,ipo-seed1; no table")
    parser.add_argument("--seeds", type=int, default=3, help="of the best losses")
    parser.add_argument("--more-seeds-of", type=int, default=2, help="how many losses get more seeds")
    parser.add_argument("--num-prompts", type=int, default=200)
    parser.add_argument("--max-characters", type=int, default=120, help="longer prompts are left out: two cores")
    parser.add_argument("--alphas", default="0.03,0.1,0.3", help="tried on the dev split")
    parser.add_argument("--num-dev", type=int, default=25)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--trl", default="", help='more options of trl: "--max_steps 3"')
    options = parser.parse_args(arguments)
    if bool(options.preferences) != bool(options.held_out):
        parser.error("--preferences and --held-out go together")
    return options


if __name__ == "__main__":
    with plain_errors():
        main()
