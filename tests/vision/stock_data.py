"""Rows of our own making with the columns of the data sets that lm-eval's `chartqa` and `mmmu` read, as parquet on disk.

`datasets` takes a folder of a data set's name before it asks the hub, so the stock tasks read them from the working folder.
"""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, Features, Image, Sequence, Value

from tests.vision.families import picture


def write_chartqa(folder: Path, rows: int = 3) -> None:
    """Write ``HuggingFaceM4/ChartQA`` with a test split."""
    data = [
        {"image": picture(number), "query": f"q{number}?", "label": [str(number)], "human_or_machine": 0}
        for number in range(rows)
    ]
    features = Features(
        {
            "image": Image(),
            "query": Value("string"),
            "label": Sequence(Value("string")),
            "human_or_machine": Value("int8"),
        }
    )
    target = folder / "HuggingFaceM4" / "ChartQA" / "data"
    target.mkdir(parents=True)
    Dataset.from_list(data, features=features).to_parquet(target / "test-00000-of-00001.parquet")


def mmmu_subjects() -> tuple[str, ...]:
    """Every subject of the stock task, as its data set calls it."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__path__[0]) / "mmmu"
    return tuple(
        line.partition(":")[2].strip()
        for path in sorted(folder.glob("mmmu_*.yaml"))
        for line in path.read_text().splitlines()
        if line.startswith("dataset_name:")
    )


def write_mmmu(folder: Path, subjects: tuple[str, ...] = ("Accounting", "Art")) -> None:
    """Write ``MMMU/MMMU`` with a validation split of each subject: choices with two pictures, and an open question."""
    images = {f"image_{number}": Image() for number in range(1, 8)}
    features = Features(
        {name: Value("string") for name in ("id", "question", "options", "answer", "question_type")} | images
    )
    target = folder / "MMMU" / "MMMU"
    configs = []
    for number, subject in enumerate(subjects):
        none = {f"image_{place}": None for place in range(3, 8)}
        rows = [
            {"id": f"{subject}_1", "question": "<image 1> or <image 2>, and <image 1>?", "options": "['a', 'b']",
             "answer": "A", "question_type": "multiple-choice", "image_1": picture(number), "image_2": picture(50 + number),
             **none},
            {"id": f"{subject}_2", "question": "<image 1> How many?", "options": "[]", "answer": "2",
             "question_type": "open", "image_1": picture(90 + number), "image_2": None, **none},
        ]  # fmt: skip
        (target / subject).mkdir(parents=True)
        Dataset.from_list(rows, features=features).to_parquet(target / subject / "validation-00000-of-00001.parquet")
        configs.append(
            f"- config_name: {subject}\n  data_files:\n  - split: validation\n    path: {subject}/validation-*.parquet\n"
        )
    (target / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n", encoding="utf-8")
