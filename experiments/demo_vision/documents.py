"""The documents of the task `aad_vision_demo`: pictures of seeds that nothing is trained on, and questions about them."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

from aad_plugin.tasks.vision.demo import load
from experiments.demo_vision.drawing import scene
from experiments.demo_vision.questions import count, description, probe, single

SEEDS = range(950_000, 950_060)
FOLDER = Path(load.__file__).parent


def write_documents(folder: Path = FOLDER) -> None:
    """Write documents.jsonl and pictures.jsonl: of each picture a description, two questions (one
    that is no count where there is any), a probe for what is there and
    one for what is not (in turns any other thing, and one whose colour or shape is there)."""
    pictures: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
    for number, seed in enumerate(SEEDS):
        one, rng, name = scene(seed), random.Random(f"task {seed}"), f"picture-{number:02d}"
        file = io.BytesIO()
        one.image().save(file, "png", optimize=True)
        address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        pictures.append({"picture": name, "image": address})
        others = single(one, rng)
        rng.shuffle(others)
        about = ("random", "adversarial")[number % 2]
        counted = {question.text: question for question in (count(one, rng) for _ in range(20))}
        asked = [description(one, rng), *[*others[:1], *counted.values()][:2]]
        asked += [probe(one, rng, "present"), probe(one, rng, about)]
        for place, question in enumerate(asked):
            row = {"id": f"{name}-{place}", "picture": name, "kind": question.kind, "about": question.about}
            documents.append({**row, "prompt": question.text, "label": question.answer})
    for file_name, rows in (("pictures.jsonl", pictures), ("documents.jsonl", documents)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / file_name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_documents()
