"""The prompts beside this file as a dataset, so that the task runs without a hub."""

from pathlib import Path
from typing import Any

import datasets


def prompts(**kwargs: Any) -> dict[str, datasets.Dataset]:
    """Return {"test": …} with columns id, category, prompt; lm-eval passes metadata, which is not needed here."""
    return {"test": datasets.Dataset.from_json(str(Path(__file__).with_name("prompts.jsonl")))}
