"""An account of the models a study runs, which a resumed run must find again."""

from __future__ import annotations

from typing import Any

from aad_plugin.files.marks import tokenizer_mark, weights_mark
from aad_plugin.judges.kinds.reward import refuse_twins, reward_mark
from aad_plugin.pair.account import describe
from aad_plugin.pair.model import AlignedPair
from aad_plugin.study.plan import TOKENIZER, StudyPlan
from aad_plugin.texts.messages import digest


def account(plan: StudyPlan, pair: AlignedPair, wrong: AlignedPair | None) -> dict[str, Any]:
    """Return what tells this study's models from others, and the versions that decode; JSON-able.

    Raises:
        ConfigError: oracle and picker are one model by two names.
    """
    refuse_twins(*plan.scorers)
    found = describe(pair)
    found[TOKENIZER] = tokenizer_mark(pair.tokenizer)
    found.pop("settings")  # the plan has its own
    for spec in plan.scorers:
        found[spec] = digest(reward_mark(spec.removeprefix("reward:")))[:16]
    if wrong is not None:
        found["wrong_reference"] = weights_mark(wrong)
    return found
