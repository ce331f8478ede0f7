"""`--model aad-multimodal`: lm-eval's stock tasks with pictures, on rows of our own served from disk."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.harness.registration import register_all, tasks_path
from tests.toys import byte_tokenizer
from tests.vision.families import FAMILIES, picture
from tests.vision.stock_data import mmmu_subjects, write_chartqa, write_mmmu


@functools.cache
def task_manager():
    """lm-eval's tasks with pictures that these tests ask, beside ours, listed once."""
    from lm_eval import tasks

    register_all()
    stock = [Path(tasks.__file__).parent / name for name in ("chartqa", "mmmu")]
    return tasks.TaskManager(include_path=[str(path) for path in (tasks_path(), *stock)], include_defaults=False)


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


# ------------------------------------------------------------------------------------- one model, several requests


@pytest.fixture
def lm(llava):
    """Builds a model of the toys that keeps no answers."""
    from aad_plugin.harness.multimodal import AADMultimodalLM

    def build(**options):
        named = {"policy": llava[0], "reference": llava[1], "device": "cpu", "dtype": "float32", "batch_size": 2}
        return AADMultimodalLM(**{**named, "answers_dir": "none", **options})

    return build


def shown(context: str, *seeds: int, **options):
    """A request that shows pictures."""
    from lm_eval.api.instance import Instance

    arguments = (context, {"until": [], "max_gen_toks": 6, **options}, {"visual": [picture(seed) for seed in seeds]})
    return Instance("generate_until", {}, arguments, 0, metadata=("t", 0, 1))


@pytest.mark.parametrize("drawn", [{"strategy": "sample"}, {"strategy": "greedy", "do_sample": True}])
def test_drawn_answers_to_pictures_are_not_cached(lm, drawn, tmp_path: Path) -> None:
    """lm-eval stores an answer under the request with its pictures, which was not the one it was told to leave out."""
    from lm_eval.api.model import CachingLM

    cached = CachingLM(lm(), str(tmp_path / "cache.db"))
    cached.generate_until([shown("<image> what?", 1, **drawn)] * 2)
    assert len(cached.dbdict) == 0
    cached.generate_until([shown("<image> what?", 1, strategy="greedy")])
    assert len(cached.dbdict) == 2  # as our hook keeps it, and as lm-eval does


THINKS = (
    FAMILIES["llava"]
    .processor()
    .chat_template.replace("<assistant>", "<assistant>{% if enable_thinking is false %}<no think>{% endif %}")
)


def test_what_a_template_is_told_reaches_it(lm, llava, tmp_path: Path) -> None:
    from aad_plugin.pair.model import AlignedPair

    model = lm(enable_thinking=False)
    model.processor.chat_template = THINKS
    turn = {"role": "user", "content": "<image>what?"}
    assert model.apply_chat_template([turn]) == "<user><image>what?<assistant><no think>"
    prompt = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "what?"}]}]
    assert model.render_prompt(prompt).startswith("<user><image>what?<assistant><no think>")
    pair = AlignedPair.from_pretrained(
        policy=llava[0], reference=llava[1], dtype="float32", chat_template_args={"enable_thinking": False}
    )
    pair.processor.chat_template = THINKS
    loaded = type(model)(pretrained=pair, answers_dir="none")
    assert loaded.apply_chat_template([turn]) == "<user><image>what?<assistant><no think>"


def test_a_named_tokenizer_is_read(lm, llava, tmp_path: Path) -> None:
    own = FAMILIES["llava"].processor().tokenizer
    own.chat_template, own.bos_token = None, "x"
    own.save_pretrained(tmp_path / "own")
    model = lm(tokenizer=str(tmp_path / "own"))
    assert model.tokenizer.bos_token == "x" and model.processor.tokenizer is model.tokenizer
    assert model.generate_until([shown("<image> what?", 1)]) == lm().generate_until([shown("<image> what?", 1)])
    byte_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(
        ConfigError, match="the processor's place of a picture, <image>, is token 258 of its own tokenizer"
    ):
        lm(tokenizer=str(tmp_path / "other"))


@pytest.mark.parametrize("interleave", [True, False])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("num_shown", [0, 1, 2])
def test_as_many_pictures_are_shown_as_lm_eval_shows(lm, interleave: bool, chat: bool, num_shown: int) -> None:
    """With a chat template, two pictures under max_images=1 were refused: the template has one place then."""
    words = "<image> first <image> second"
    model = lm(max_images=num_shown, interleave=interleave)
    context = model.apply_chat_template([{"role": "user", "content": words}]) if chat else words
    asked = model._with_digests(shown(context, 1, 2))
    rendered = model._rendered(asked.args[0])
    assert len(rendered.pictures) == rendered.text.count("<image>") == num_shown
    assert len(model.generate_until([shown(context, 1, 2), shown(context, 3, 4)])) == 2
    with pytest.raises(ConfigError, match="places for one"):
        lm().generate_until([shown("<image>", 1, 2)])


def test_a_system_turn_that_the_template_ignores_opens_the_users(lm) -> None:
    model = lm()
    template = model.processor.chat_template
    model.processor.chat_template = template.replace("for m in messages", "for m in messages if m['role'] == 'user'")
    turns = [{"role": "system", "content": "In French."}, {"role": "user", "content": "<image>what?"}]
    assert model.apply_chat_template(turns) == "<user>In French.\n\n<image>what?<assistant>"


def test_no_reward_model_picks_answers_to_pictures(lm) -> None:
    asked = {"strategy": "best_of_2", "picker": "reward:a/model"}
    with pytest.raises(ConfigError, match="a reward model reads text alone and cannot pick answers to pictures, got"):
        lm().generate_until([shown("<image> what?", 1, **asked)])
