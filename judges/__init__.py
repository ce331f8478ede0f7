"""Judges: compare answers and turn verdicts into statistics. Knows nothing of lm-eval or of how answers were decoded.

    from aad_plugin.judges import Comparison, compare, load_judge, summarize

    judge = load_judge("reward:demo")
    verdicts = compare([Comparison("0", "What is 2+2?", "4", "5")], judge, output_dir="runs/judged")
    print(summarize(verdicts))

Flow: items -> questions (both orders) -> transport -> replies -> rulings -> store -> verdicts -> statistics.
Importing this package loads neither torch nor transformers nor openai; names are resolved on first use.
"""

import importlib
from typing import Any

_HOMES = {
    "Answer": "items",
    "Comparison": "items",
    "Question": "items",
    "Ruling": "items",
    "Verdict": "items",
    "Judge": "sitting.judge",
    "Price": "sitting.judge",
    "Sitting": "sitting.sitting",
    "Store": "sitting.store",
    "Summary": "statistics.summary",
    "RewardModel": "kinds.reward",
    "Estimate": "sitting.estimate",
    "cascade": "sitting.cascading",
    "compare": "sitting.judging",
    "estimate": "sitting.estimate",
    "grade": "sitting.judging",
    "jury_verdicts": "statistics.jury",
    "league_of": "leagues.table",
    "load_judge": "kinds.specs",
    "load_template": "asking.templates",
    "mean_with_interval": "statistics.intervals",
    "paired_difference": "statistics.intervals",
    "read_battles": "leagues.battles",
    "read_reply": "asking.replies",
    "summarize": "statistics.summary",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
