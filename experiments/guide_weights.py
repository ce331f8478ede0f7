"""Two guides at many weights: how far one aim can be had without the other, as a table and a Pareto front.

python -m experiments.guide_weights --model-args policy=BASE,guide=HELPFUL+BRIEF,guide_reference=BASE+BASE \
    --prompts prompts.jsonl --oracle reward:other/model --output runs/weights
    mean oracle reward against mean length for every pair of weights in --weights; goes on weight by weight
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from aad_plugin.cli.main import plain_errors
from aad_plugin.errors import ConfigError
from aad_plugin.files.run_folder import read_account, refuse_other_run
from aad_plugin.files.whole import write_text
from aad_plugin.judges.kinds.reward import load_scorer, reward_mark
from aad_plugin.pages.plotting import check_plots
from aad_plugin.pair.account import describe
from aad_plugin.pair.answering import answer
from aad_plugin.pair.model import load_pair
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.arguments import parse_model_args
from aad_plugin.texts.messages import digest
from aad_plugin.texts.prompts import prompt_rows


def main(arguments: list[str] | None = None) -> None:
    """Decode what is missing, write points.json and front.svg."""
    options = _options(arguments)
    check_plots(options.output)
    weights = _weights(options.weights)
    prompts = [prompt for _, prompt in itertools.islice(prompt_rows(options.prompts), options.limit)]
    pair, scorer = load_pair(**parse_model_args(options.model_args)), load_scorer(options.oracle)
    if len(pair.guides.members) != 2:
        raise ConfigError(f"expected two guides, got {len(pair.guides.members)} (--model-args …,guide=A+B)")
    path = options.output / "points.json"
    asked = {"pair": describe(pair),
             "oracle": reward_mark(options.oracle.removeprefix("reward:")), "prompts": [len(prompts), digest(prompts)],
             "max_new_tokens": options.max_new_tokens}  # fmt: skip
    kept = read_account(path) or {"asked": asked, "points": []}
    refuse_other_run(options.output, kept["asked"], asked, dict.fromkeys(asked, "points of another kind"))
    for first, second in itertools.product(weights, weights):
        if any(point["weights"] == [first, second] for point in kept["points"]):
            continue
        texts = answer(pair, prompts, strategy="guided", guide_scale=(first, second),
                       max_new_tokens=options.max_new_tokens, progress=True)  # fmt: skip
        rewards = scorer.score_answers(prompts, texts)
        kept["points"].append({"weights": [first, second], "reward": sum(rewards) / len(rewards),
                               "characters": sum(map(len, texts)) / len(texts), "answers": texts})  # fmt: skip
        options.output.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(kept, ensure_ascii=False) + "\n")
    _draw(kept["points"], options.output / "front.svg")


def front(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points that no other one beats in both reward (more) and characters (fewer), by length."""

    def beats(other: dict[str, Any], one: dict[str, Any]) -> bool:
        no_worse = other["reward"] >= one["reward"] and other["characters"] <= one["characters"]
        return no_worse and (other["reward"], other["characters"]) != (one["reward"], one["characters"])

    kept = [one for one in points if not any(beats(other, one) for other in points)]
    return sorted(kept, key=lambda one: one["characters"])


def _weights(words: str) -> list[float]:
    """Read and check the weights of either guide before anything is loaded."""
    try:
        weights = [float(one) for one in words.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights are numbers with commas between them, got {words!r}") from error
    for one in weights:
        DecodingSettings(strategy="guided", guide_scale=one)
    return weights


def _draw(points: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter([one["characters"] for one in points], [one["reward"] for one in points], s=14)
    best = front(points)
    axes.plot([one["characters"] for one in best], [one["reward"] for one in best], linewidth=1)
    for one in best:
        axes.annotate("+".join(f"{w:g}" for w in one["weights"]), (one["characters"], one["reward"]), fontsize=7)
    axes.set_xlabel("characters of an answer")
    axes.set_ylabel("oracle reward")
    figure.savefig(path)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.guide_weights", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model-args", required=True, help="a policy with two guides")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--oracle", required=True, help="reward:<model>")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--weights", default="0,0.5,1,2,4")
    parser.add_argument("--limit", type=int, default=50, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with plain_errors():
        main()
