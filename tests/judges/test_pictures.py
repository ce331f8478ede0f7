"""Items with pictures: shown to a judge that sees, refused by one that does not, and part of the verdict's key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from aad_plugin.errors import ConfigError
from aad_plugin.judges import Answer, Comparison, compare, grade, load_judge
from aad_plugin.judges.pairing import pair_rows, single_rows
from aad_plugin.judges.sitting.pictures import SIDE, TOKENS
from aad_plugin.rivals.judged_rows import write_answers
from aad_plugin.sources.images import read_picture
from aad_plugin.texts.answer_files import read_answers
from tests.judges.conftest import made_up


def judge_at(url, **options):
    return load_judge("openai:planted", base_url=url, **options)


def red(side: int = 8, colour: str = "red") -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def items(*colours: str) -> list[Comparison]:
    return [Comparison(one.id, one.prompt, one.candidate, one.baseline, pictures=tuple(red(colour=c) for c in colours))
            for one in made_up(3)]  # fmt: skip


def test_both_orders_show_the_pictures_and_the_key_holds_them(loopback, tmp_path):
    url, state = loopback()
    (plain,) = compare(made_up(3)[:1], judge_at(url), tmp_path, progress=False)
    first = compare(items("red", "blue"), judge_at(url, sees=True), tmp_path, progress=False)
    assert all(v.judged for v in first) and len(state.pictures) == 6
    wanted = [read_picture(red(colour=colour)).digest for colour in ("red", "blue")]
    for shown in state.pictures:
        assert all(one.startswith("data:image/png;base64,") for one in shown)
        assert [read_picture(one).digest for one in shown] == wanted
    asked = sum(state.seen.values())
    again = compare(items("red", "blue"), judge_at(url, sees=True), tmp_path, progress=False)
    assert sum(state.seen.values()) == asked and [v.p for v in again] == [v.p for v in first]
    other = compare(items("blue", "red"), judge_at(url, sees=True), tmp_path, progress=False)
    assert sum(state.seen.values()) == asked + 6
    assert len({v.rulings for v in (plain, first[0], other[0])}) == 3
    # A judge that may see judges a text as it did before.
    (text,) = compare(made_up(3)[:1], judge_at(url, sees=True), tmp_path, progress=False)
    assert text.rulings == plain.rulings and sum(state.seen.values()) == asked + 6
    assert first[0].prompt != plain.prompt, "one question about two pictures is two prompts"


def test_the_real_client_sends_image_parts_after_the_text(loopback):
    judge = judge_at("http://127.0.0.1:1/v1", sees=True, form="tag")
    from aad_plugin.judges.items import Question

    body = judge.request(Question("k", [{"role": "user", "content": "What is this?"}], "a", "b", None, (red(),))).body
    system, user = body["messages"]
    assert isinstance(system["content"], str)
    assert [part["type"] for part in user["content"]] == ["text", "text", "image_url"]
    assert "What is this?" in user["content"][0]["text"] and "in this order" in user["content"][1]["text"]
    plain = judge.request(Question("k", [{"role": "user", "content": "What is this?"}], "a", "b")).body
    assert plain["messages"][1]["content"] == user["content"][0]["text"]


def test_large_pictures_are_scaled_and_counted():
    judge = judge_at("http://127.0.0.1:1/v1", sees=True, form="tag", price="1/1")
    from aad_plugin.judges.items import Question

    def size(*pictures):
        return judge.size(Question("k", [{"role": "user", "content": "?"}], "a", "b", None, pictures), judge.price)

    large = Image.new("RGB", (3 * SIDE, 100), "red")
    body = judge.request(Question("k", [{"role": "user", "content": "?"}], "a", "b", None, (large,))).body
    assert read_picture(body["messages"][1]["content"][2]["image_url"]["url"]).image.width == SIDE
    assert size(red(), red()).prompt_tokens - size().prompt_tokens == pytest.approx(2 * TOKENS, abs=40)
    assert size(red()).most_cost > size().most_cost


@pytest.mark.parametrize("call", [compare, grade])
def test_a_judge_of_text_is_never_asked(loopback, tmp_path, call):
    url, state = loopback()
    judge = judge_at(url, template="grade" if call is grade else None)
    asked = items("red") if call is compare else [Answer("0", "What is this?", "A cat.", pictures=(red(),))]
    with pytest.raises(ConfigError, match="shows 1 picture, and the judge openai:planted reads text alone") as told:
        call(asked, judge, tmp_path, progress=False)
    assert "\n" not in str(told.value) and sum(state.seen.values()) == 0


def test_other_kinds_refuse(tmp_path):
    judge = load_judge("refusals:text")
    with pytest.raises(ConfigError, match="reads text alone: name one that sees"):
        grade([Answer("0", "?", "A cat.", pictures=(red(),))], judge, tmp_path, progress=False)
    with pytest.raises(ConfigError, match="sees must be true or false"):
        judge_at("http://127.0.0.1:1/v1", sees="perhaps")


def test_a_broken_picture_is_told_by_its_item(loopback, tmp_path):
    url, state = loopback()
    bad = Comparison("7", "?", "a", "b", pictures=(str(tmp_path / "none.png"),))
    with pytest.raises(ConfigError, match="item '7', picture 1: expected an image file"):
        compare([bad], judge_at(url, sees=True, form="tag"), progress=False)
    assert sum(state.seen.values()) == 0


def test_a_file_of_answers_holds_its_pictures(loopback, tmp_path):
    """One question about two pictures is two rows, and each is judged with its own."""
    rows = [
        {"id": str(n), "prompt": "Is there a dog?", "answers": {"aad": [f"good {n}"], "greedy": [f"bad {n}"]},
         "truncated": {}, "pictures": [red(colour=colour)]}
        for n, colour in enumerate(("red", "blue"))
    ]  # fmt: skip
    path = write_answers(tmp_path / "run", rows)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all((path.parent / line["pictures"][0]).is_file() for line in lines)
    pairs = pair_rows(read_answers(f"{path}#aad"), read_answers(f"{path}#greedy"))
    assert [(one.candidate, one.baseline) for one in pairs] == [("good 0", "bad 0"), ("good 1", "bad 1")]
    url, state = loopback()
    assert all(v.judged for v in compare(pairs, judge_at(url, sees=True), tmp_path / "out", progress=False))
    digests = {read_picture(shown[0]).digest for shown in state.pictures}
    assert digests == {read_picture(red(colour=colour)).digest for colour in ("red", "blue")}
    assert len(single_rows(read_answers(f"{path}#aad"))[0].pictures) == 1
    (path.parent / lines[0]["pictures"][0]).unlink()
    with pytest.raises(ConfigError, match="line 1: cannot read the picture"):
        read_answers(f"{path}#aad")


def test_lm_evals_samples_with_pictures_are_refused(tmp_path):
    sample = {"doc": {"id": "0", "prompt": "What?"}, "resps": [["a"]], "filter": "none",
              "arguments": {"gen_args_0": {"arg_0": "<image>What?", "arg_1": {"strategy": "aad"},
                                           "arg_2": {"visual": ["<PIL>"]}}}}  # fmt: skip
    path = tmp_path / "samples_x.jsonl"
    path.write_text(json.dumps(sample) + "\n")
    with pytest.raises(ConfigError, match=r"lm-eval's samples do not hold; judge the answers\.jsonl"):
        read_answers(str(path))


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    from tests.vision.conftest import save
    from tests.vision.families import FAMILIES

    folder = save(FAMILIES["llava"], 0, tmp_path_factory.mktemp("judge") / "llava")
    config = Path(folder) / "config.json"  # a judge's prompt in bytes is longer than the toy's context
    config.write_text(config.read_text().replace('"max_position_embeddings": 1024', '"max_position_embeddings": 4096'))
    return folder


def test_a_local_judge_that_sees_reads_the_picture_as_its_model_does(seeing):
    import torch

    from aad_plugin.judges.items import Question
    from aad_plugin.judges.sitting.sitting import Sitting
    from aad_plugin.judges.sitting.store import Store
    from tests.vision.families import picture

    judge = load_judge(f"hf:{seeing}", sees=True, dtype="float32", device="cpu")
    asked = [
        judge.request(
            Question(str(n), [{"role": "user", "content": "What is <image> this?"}], "a<eos>", "b", None, shown)
        )
        for n, shown in enumerate([(picture(1),), (picture(2),), (picture(1), picture(2)), ()])
    ]
    replies: list = []
    with Store(None) as store:
        judge.channel.send(asked, replies.append, Sitting(store))
    top = [r.body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] for r in replies]
    assert len({json.dumps(one) for one in top}) == 4
    inputs = judge.channel._inputs(asked[:1])
    image, end = judge.channel.tokenizer.convert_tokens_to_ids(["<image>", "<eos>"])
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(image) == 16 and ids.count(end) == 0, "marks in judged text are text"
    with torch.no_grad():
        logits = judge.channel.model(**inputs).logits[0, -1].log_softmax(-1)
    assert top[0][0]["logprob"] == pytest.approx(float(logits.max()), abs=1e-5)


def test_a_local_judge_of_text_does_not_see(checkpoints_without_pictures):
    with pytest.raises(ConfigError, match="reads text alone") as told:
        load_judge(f"hf:{checkpoints_without_pictures}", sees=True)
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module")
def checkpoints_without_pictures(tmp_path_factory):
    from tests.toys import byte_tokenizer, toy_model

    folder = tmp_path_factory.mktemp("judge") / "text"
    toy_model("llama", 0).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)
