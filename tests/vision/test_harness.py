"""`--model aad-multimodal`: lm-eval's stock tasks with pictures, on rows of our own served from disk."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.harness.registration import register_all, tasks_path
from tests.vision.stock_data import mmmu_subjects, write_chartqa, write_mmmu


@functools.cache
def task_manager():
    """lm-eval's tasks, listed once."""
    from lm_eval.tasks import TaskManager

    register_all()
    return TaskManager()


def run(tasks: list[str], answers: Path | str, pair: tuple[str, str], evaluation_tracker=None, **options) -> dict:
    import lm_eval

    args = {"policy": pair[0], "reference": pair[1], "device": "cpu", "dtype": "float32", "batch_size": 2}
    return lm_eval.simple_evaluate(
        model="aad-multimodal", model_args={**args, "answers_dir": str(answers), **options}, tasks=tasks,
        gen_kwargs="max_gen_toks=4", bootstrap_iters=0, task_manager=task_manager(), evaluation_tracker=evaluation_tracker,
    )  # fmt: skip


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the stock tasks' data."""
    write_chartqa(tmp_path)
    write_mmmu(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_stock_tasks_with_pictures(stock: Path, llava, caplog: pytest.LogCaptureFixture) -> None:
    tasks = ["chartqa", "mmmu_val_accounting", "mmmu_val_art"]
    first = run(tasks, stock / "answers", llava, trace=str(stock / "trace"))
    assert set(first["results"]) == set(tasks)
    assert first["results"]["chartqa"]["sample_len"] == 3 and first["results"]["mmmu_val_art"]["sample_len"] == 2
    texts = {task: [sample["resps"][0][0] for sample in first["samples"][task]] for task in tasks}
    assert first["config"]["aad"]["processor"]

    again = run(["mmmu_val_art"], stock / "answers", llava, batch_size=1)
    assert [one["resps"][0][0] for one in again["samples"]["mmmu_val_art"]] == texts["mmmu_val_art"]
    assert len([line for file in (stock / "answers").rglob("*.jsonl") for line in file.read_text().splitlines()]) == 7
    assert list((stock / "trace").rglob("*.parquet"))


@pytest.mark.grid
@pytest.mark.slow
def test_every_subject_of_mmmu(tmp_path: Path, llava, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mmmu(tmp_path, mmmu_subjects())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = run(["mmmu_val"], "none", llava, batch_size=8)
    leaves = {task: rows for task, rows in found["samples"].items() if task.startswith("mmmu_val_")}
    assert len(leaves) == len(mmmu_subjects()) == 30 and all(len(rows) == 2 for rows in leaves.values())
    assert all("acc,none" in found["results"][task] for task in leaves)


def test_the_report_shows_each_documents_picture(stock: Path, llava) -> None:
    """lm-eval's samples hold no pixels, and hash a picture's place in memory: two runs must still be one document each."""
    from lm_eval.loggers import EvaluationTracker

    from aad_plugin.report.content import page_content
    from aad_plugin.report.runs import read_run
    from aad_plugin.sources.images import read_picture
    from tests.vision.families import picture

    for name in ("one", "two"):
        tracker = EvaluationTracker(output_path=str(stock / name))
        found = run(["chartqa", "mmmu_val_art"], stock / "answers", llava, trace=str(stock / name / "trace"),
                    evaluation_tracker=tracker)  # fmt: skip
        samples = found.pop("samples")
        tracker.save_results_aggregated(results=found, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task, rows)
    runs = [read_run(f"{name}={stock / name}") for name in ("one", "two")]
    assert runs[0].problems == [] and len(runs[0].traced) == 5
    documents = runs[0].tasks["chartqa"].documents
    assert [one.pictures[0].digest for one in documents.values()] == [
        read_picture(picture(number)).digest for number in range(3)
    ]
    content = page_content(runs, title="t", max_traces=9)
    assert len(content["docs"]) == 5 and all(len(doc["a"]) == 2 for doc in content["docs"])
    assert [len(doc["s"]) for doc in content["docs"]] == [1, 1, 1, 3, 1] and len(content["pictures"]) == 5
    assert all(src.startswith("data:image/jpeg;base64,") for src, _ in content["pictures"])


def test_another_picture_is_another_request(stock: Path, llava) -> None:
    from lm_eval.api.instance import Instance

    from aad_plugin.harness.multimodal import AADMultimodalLM
    from tests.vision.families import picture

    lm = AADMultimodalLM(policy=llava[0], reference=llava[1], device="cpu", dtype="float32", batch_size=4,
                         answers_dir=str(stock / "answers"))  # fmt: skip
    options = {"until": [], "max_gen_toks": 6}
    requests = [
        Instance(
            "generate_until", {}, ("<image> what?", options, {"visual": [picture(seed)]}), 0, metadata=("t", seed, 1)
        )
        for seed in (1, 2, 1)
    ]
    one, other, repeated = lm.generate_until(requests)
    assert one == repeated
    (file,) = (stock / "answers").rglob("*.jsonl")
    assert len({json.loads(line)["key"] for line in file.read_text().splitlines()}) == 2
    loaded = AADMultimodalLM(pretrained=lm.model, answers_dir="none", batch_size=2)
    assert loaded.generate_until(requests[:2]) == [str(one), str(other)]
    with pytest.raises(ConfigError, match="has 1 pictures and 2 places for one"):
        lm.generate_until([Instance("generate_until", {}, ("<image><image>", options, {"visual": [picture(1)]}), 0)])
    with pytest.raises(ConfigError, match="pictures are not cut"):
        lm.generate_until([
            Instance("generate_until", {}, ("<image>" + "long " * 400, options, {"visual": [picture(1)]}), 0)
        ])  # fmt: skip


def test_a_pair_that_reads_text_alone_is_refused(checkpoints_of_text: tuple[str, str]) -> None:
    from aad_plugin.harness.multimodal import AADMultimodalLM

    policy, reference = checkpoints_of_text
    with pytest.raises(ConfigError, match=r"this one reads text alone: .* use --model aad for prompts of text"):
        AADMultimodalLM(policy=policy, reference=reference, device="cpu")


def test_pope_by_every_rival(tmp_path: Path, llava, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task's own rivals, vcd among them, on a folder in upstream's format; a second run answers nothing again."""
    import lm_eval

    from tests.tasks.upstream import write_upstream
    from tests.vision.families import picture

    folder = write_upstream(tmp_path / "data")
    picture(5).save(folder / "one.png")
    monkeypatch.setenv("AAD_OUTPUT_DIR", str(tmp_path / "out"))

    def evaluate(**options):
        args = {"policy": llava[0], "reference": llava[1], "device": "cpu", "dtype": "float32", "batch_size": 2}
        return lm_eval.simple_evaluate(
            model="aad-multimodal", model_args={**args, "answers_dir": str(tmp_path / "answers"), **options},
            tasks=["aad_pope_random"], gen_kwargs="max_gen_toks=4", bootstrap_iters=0, task_manager=manager,
        )  # fmt: skip

    from lm_eval.tasks import TaskManager

    register_all()
    own = {"include_path": str(tasks_path()), "include_defaults": False}
    manager = TaskManager(**own, metadata={"data_dir": str(folder)})
    found = evaluate()["results"]["aad_pope_random"]
    for name in ("aad", "greedy", "best_of_2", "vcd"):
        assert 0 <= found[f"accuracy_{name},none"] <= 1 and found[f"yes_ratio_{name},none"] >= 0

    def kept() -> list[dict]:
        return [json.loads(line) for file in (tmp_path / "answers").rglob("*.jsonl") for line in file.open()]

    assert len({line["key"] for line in kept()}) == 8
    evaluate()
    assert len(kept()) == 8
    evaluate(noise_step=900)  # vcd's two answers alone are asked again
    assert len({line["key"] for line in kept()}) == 10
