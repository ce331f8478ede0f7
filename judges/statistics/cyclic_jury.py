"""A cyclic jury: each prompt goes to one of the judges, taking turns, so that a jury costs what one judge does.

Judges differ by an offset of their own. Since prompts are dealt out evenly and at random, the offsets weigh as in the mean
of all judges, which is what a whole jury estimates; the same money spent on one judge keeps that judge's offset in full.
Source: "CyclicJudge", arXiv 2603.01865.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Item, Verdict
from aad_plugin.judges.statistics.intervals import mean_with_interval
from aad_plugin.texts.messages import digest, prompt_hash

CYCLIC = "cyclic jury"


def deal(
    items: Sequence[Item], judges: Sequence[str], seed: int = 0, prompts: Sequence[str] | None = None
) -> list[str]:
    """The judge of each item: prompts in random order, dealt in turns; items of one prompt share their judge.

    Args:
        prompts: what tells the items' prompts apart, where they show pictures; None for their texts.
    Raises:
        ConfigError: fewer than two judges.
    """
    if len(judges) < 2:
        raise ConfigError(f"a jury needs at least two different judges, got {', '.join(judges) or 'none'}")
    own = [prompt_hash(item.prompt) for item in items] if prompts is None else list(prompts)
    order = list(dict.fromkeys(own))
    random.Random(f"jury {seed}").shuffle(order)
    by_prompt = {prompt: judges[turn % len(judges)] for turn, prompt in enumerate(order)}
    return [by_prompt[prompt] for prompt in own]


def cyclic_verdicts(by_judge: Mapping[str, Sequence[Verdict]], order: Sequence[str]) -> list[Verdict]:
    """The judges' verdicts as one jury's, in the order of items.

    Args:
        by_judge: judge -> verdicts on the items dealt to it. order: item ids.
    """
    import dataclasses

    fingerprint = digest(sorted({v.judge_fingerprint for verdicts in by_judge.values() for v in verdicts}))
    name = f"{CYCLIC}: {' + '.join(by_judge)}"
    found = {
        verdict.id: dataclasses.replace(
            verdict,
            judge=name,
            judge_fingerprint=fingerprint,
            members={judge: verdict.p},
            models=tuple(f"{judge}: {model}" for model in verdict.models),
            system_fingerprints=tuple(f"{judge}: {mark}" for mark in verdict.system_fingerprints),
        )
        for judge, verdicts in by_judge.items()
        for verdict in verdicts
    }
    return [found[one] for one in order]


def cyclic_figures(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Figures of a cyclic jury; {} for other verdicts.

    Returns:
        win_rate_by_judge, each over its own prompts; jury_ci95, the interval of the mean win rate with judges as strata:
        as wide as the spread within judges, since their shares are fixed; judge_spread, the standard deviation of the
        judges' win rates.
    """
    judged = [v for v in verdicts if v.judged and v.p is not None and v.judge.startswith(f"{CYCLIC}: ")]
    if not judged:
        return {}
    groups: dict[str, list[Verdict]] = {}
    for verdict in judged:
        groups.setdefault(next(iter(verdict.members or {})), []).append(verdict)
    rates = {name: float(np.mean([v.p for v in group if v.p is not None])) for name, group in groups.items()}
    overall = float(np.mean([v.p for v in judged if v.p is not None]))
    # Each stratum is moved to the common mean: what is left is the spread within, on a range as wide as the moves make it.
    moves = {name: overall - rate for name, rate in rates.items()}
    least, most = min(0.0, *moves.values()), 1 + max(0.0, *moves.values())
    p = [((v.p or 0.0) + moves[name] - least) / (most - least) for name, group in groups.items() for v in group]
    within = mean_with_interval(p, [v.prompt for group in groups.values() for v in group])
    low, high = (least + (most - least) * end for end in (within.low, within.high))
    return {
        "win_rate_by_judge": rates,
        "jury_ci95": [min(max(low, 0.0), overall), max(min(high, 1.0), overall)],
        "judge_spread": float(np.std(list(rates.values()), ddof=1)) if len(rates) > 1 else float("nan"),
    }
