"""What combines with what: one declared table from which docs/combinations.md is made.

A cell is one strategy with one feature on one engine. It is "equal" (the tokens of the naive loop of `tests.naive`),
"drawn" (draws of the engine's own generator: each token from the naive loop's nucleus) or "refused" (an error of one line).
`tests/pair/test_combinations.py` and `tests/engine/test_combinations.py` hold every cell against what runs.

A new feature is a :class:`Feature` below, with the strategies that refuse it, and what it does to a call in the engine's
test. A new strategy is a row by itself: it is equal everywhere until a feature says otherwise.

    python -m tests.combinations        write docs/combinations.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from aad_plugin.settings import STRATEGIES

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "combinations.md"
EVERY = tuple(STRATEGIES)
DRAWING = ("sample", "best_of_n")


@dataclass(frozen=True)
class Feature:
    """A column of the table.

    Attributes:
        asked: what a user writes for it, for the document.
        refused: the strategies that refuse it. alone: features of the same engine that it refuses beside itself.
        single: whether it serves one prompt at a time.
    """

    asked: str
    refused: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    single: bool = False


TRANSFORMERS = {
    "batch": Feature("prompts of different length in one batch"),
    "static cache": Feature("gen_kwarg `cache_implementation=static`"),
    "no cache": Feature("gen_kwarg `use_cache=false`"),
    "beams": Feature("gen_kwarg `num_beams=2`", refused=DRAWING),
    "prompt lookup": Feature("gen_kwarg `prompt_lookup_num_tokens=3`", alone=("static cache", "no cache"), single=True),
    "draft_model": Feature(
        "model_arg `draft_model=…`",
        refused=DRAWING,
        alone=("static cache", "no cache", "beams", "prompt lookup"),
        single=True,
    ),
    "trace": Feature("model_arg `trace=…`", alone=("beams", "prompt lookup", "draft_model")),
    "compile": Feature(
        "`compile_config` of `generate`, beside a static cache",
        refused=("guided",),
        alone=("no cache", "beams", "prompt lookup", "draft_model"),
    ),
}
# The same of prompts with pictures, tests/vision/test_combinations.py: what guesses tokens would guess those of pictures,
# and a compiled step reads none.
PICTURES = {
    name: replace(feature, refused=EVERY) if name in ("prompt lookup", "draft_model", "compile") else feature
    for name, feature in TRANSFORMERS.items()
}
# Copies of a prompt share one reading of its pictures, which a step without a cache would have to repeat for each.
PICTURES["no cache"] = replace(PICTURES["no cache"], refused=("best_of_n",), alone=("beams",))
VLLM = {
    "batch": Feature("prompts of different length in one batch"),
    "chunked prefill": Feature("model_arg `enable_chunked_prefill=true`", refused=DRAWING),
    "compile": Feature("model_arg `enforce_eager=false`, vLLM's default"),
    "ngram": Feature('model_arg `speculative_config={"method": "ngram", …}`', refused=DRAWING),
    "draft_model": Feature('model_arg `speculative_config={"method": "draft_model", …}`', refused=DRAWING),
    "static cache": Feature("gen_kwarg `cache_implementation=static`", refused=EVERY),
    "no cache": Feature("gen_kwarg `use_cache=false`", refused=EVERY),
    "beams": Feature("gen_kwarg `num_beams=2`", refused=EVERY),
    "prompt lookup": Feature("gen_kwarg `prompt_lookup_num_tokens=3`", refused=EVERY),
    "trace": Feature("model_arg `trace=…`", refused=EVERY),
}


def cell(features: dict[str, Feature], strategy: str, feature: str) -> str:
    """ "equal", "drawn" or "refused", as declared."""
    if strategy == "vcd" and features is not PICTURES:
        return "refused"  # these pairs read text, and it contrasts pictures
    if features is VLLM and strategy == "expo":
        return "refused"  # one model, which has an engine of its own
    if strategy in features[feature].refused:
        return "refused"
    return "drawn" if features is VLLM and strategy in DRAWING else "equal"


def couple(one: str, other: str, features: dict[str, Feature] = TRANSFORMERS) -> str:
    """ "equal" or "refused" for two features at once, AAD on transformers."""
    refuses = "aad" in features[one].refused + features[other].refused
    return "refused" if refuses or other in features[one].alone or one in features[other].alone else "equal"


def couples() -> list[tuple[str, str]]:
    """Every two features of transformers; a batch is not one beside which another could be asked for."""
    names = [name for name in TRANSFORMERS if name != "batch"]
    return [(one, other) for number, one in enumerate(names) for other in names[number + 1 :]]


def document() -> str:
    """docs/combinations.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# What combines with what\n"
    yield "This page is made by `python -m tests.combinations`. Tests hold its cells against toy models in float32."
    yield "All cells were run; those on vLLM (0.32, on a CPU) by `pytest -m engine tests/engine/test_combinations.py`."
    yield "Beside vLLM's drafts, draws left the nucleus there, so sampling is refused with them."
    yield "Each cell holds for two checkpoints, for a LoRA over its reference and for two LoRAs over one base.\n"
    yield "* **equal**: the tokens are those of a plain loop that reads the whole text again with both models at each step."
    yield "* **drawn**: vLLM's own generator draws, each token from the nucleus that the plain loop finds."
    yield "* *guided* has the pair's own advantage as its guide; a sequence reward model refuses prompt lookup and drafts."
    yield "* **refused**: an error of one line says what to leave out."
    yield "* `expo` is one model. On vLLM an engine of its own answers by it, and a pair's engine refuses it: see"
    yield "  [one_model.md](one_model.md)."
    yield "* `vcd` contrasts pictures and refuses prompts without one; see"
    yield "  [vision.md](vision.md#visual-contrastive-decoding).\n"
    for title, features in (("`--model aad`, on transformers", TRANSFORMERS), ("`--model aad-vllm`", VLLM)):
        yield f"## {title}\n"
        yield from _table("strategy", list(STRATEGIES), list(features), lambda s, f, own=features: cell(own, s, f))
        yield "\n| feature | asked for by |\n|---|---|"
        yield from (f"| {name} | {feature.asked} |" for name, feature in features.items())
        yield ""
    yield "## Prompts with pictures: `--model aad-multimodal`, option `--image`\n"
    yield from _table("strategy", list(STRATEGIES), list(PICTURES), lambda s, f: cell(PICTURES, s, f))
    yield "\nRun for LLaVA, SmolVLM, Qwen2-VL and Gemma 3, as two checkpoints and as adapters, by"
    yield "`pytest -m grid tests/vision/test_combinations.py`; the quick tests hold a quarter of the cells on LLaVA."
    yield "Copies of a prompt, such as beams, share one reading of its pictures, so they need a cache. Two features at"
    yield "once combine as below, but for those that refuse pictures. A trace of `best_of_n` reads one prompt at a time."
    yield "On vLLM pictures are refused; see [vision.md](vision.md).\n"
    yield "## Two features at once: AAD on transformers\n"
    names = [name for name in TRANSFORMERS if name != "batch"]
    yield from _table("feature", names[:-1], names[1:], _couple_or_nothing)
    yield ""
    yield "`draft_model` and prompt lookup guess for one prompt at a time; see [options.md](options.md#drafts)."


def _couple_or_nothing(one: str, other: str) -> str:
    return couple(one, other) if (one, other) in couples() else ""


def _table(corner: str, rows: list[str], columns: list[str], of) -> Iterator[str]:
    yield f"| {corner} | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for row in rows:
        yield f"| {row} | " + " | ".join(of(row, column) for column in columns) + " |"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
