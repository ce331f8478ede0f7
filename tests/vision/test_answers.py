"""A pair that sees, loaded from disk: answers to prompts with parts, in any batch, by any strategy."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from aad_plugin import AlignedPair, answer
from aad_plugin.errors import ConfigError, VocabMismatch
from aad_plugin.pair import cache_names
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.encoding import encode, render, token_ids
from tests.toys import EOS, naive_aad
from tests.vision.conftest import save
from tests.vision.families import FAMILIES, picture, with_adapters
from tests.vision.oracle import same, seeing_logits


@pytest.fixture(scope="module")
def pair(llava) -> AlignedPair:
    policy, reference = llava
    return AlignedPair.from_pretrained(policy=policy, reference=reference, dtype="float32")


def show(text: str, *pictures) -> list[dict]:
    shown = [{"type": "image", "image": one} for one in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]


def as_file(folder: Path, image: Image.Image, name: str = "one.png") -> str:
    image.save(folder / name)
    return str(folder / name)


def test_answers_are_the_naive_loops(pair: AlignedPair) -> None:
    assert pair.proof is not None and pair.proof.status in ("proven", "remembered")
    prompts = [
        show("which?", picture(1), picture(2)),
        show("what?", picture(3)),
        "no picture",
        show("and this?", picture(4)),
    ]
    together = answer(pair, prompts, max_new_tokens=6, batch_size=4)
    assert together == answer(pair, prompts, max_new_tokens=6, batch_size=1)
    models = pair.sides.models()
    for prompt, text in zip(prompts, together, strict=True):
        rendered = render(pair, prompt, None, 0)
        batch = encode(pair, [rendered])
        shown = {} if batch.multimodal is None else batch.multimodal.arguments(batch.ids.shape[1], torch.float32)
        sides = (seeing_logits(models[role], shown, pair.vocab_size) for role in ("policy", "reference"))
        run = naive_aad(*sides, token_ids(pair, rendered), 6, 0.1, EOS)
        assert same(run, pair.generate(
            input_ids=batch.ids, attention_mask=batch.mask, multimodal=batch.multimodal, max_new_tokens=6, pad_token_id=257
        )[0, batch.ids.shape[1]:].tolist())  # fmt: skip
        if min(run.margins) > 1e-4:
            assert text == pair.tokenizer.decode(run.tokens, skip_special_tokens=True)


@pytest.mark.parametrize("options", [{"strategy": "greedy"}, {"strategy": "reference"}, {"strategy": "eft"},
                                     {"strategy": "sample"}, {"strategy": "best_of_n", "n": 3}])  # fmt: skip
def test_every_strategy_sees(pair: AlignedPair, options: dict) -> None:
    prompts = [show("which?", picture(1), picture(2)), show("what?", picture(3))]
    one = answer(pair, prompts, max_new_tokens=6, batch_size=2, **options)
    assert one == answer(pair, prompts, max_new_tokens=6, batch_size=1, **options)
    others = [show("which?", picture(5), picture(6)), show("what?", picture(7))]
    # The toy's greedy answer is one for both pictures; its scores are not (test_equality).
    assert options == {"strategy": "greedy"} or one != answer(pair, others, max_new_tokens=6, batch_size=2, **options)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"use_cache": False}, {"cache_implementation": "static"},
                                     {"num_beams": 2, "num_return_sequences": 2}])  # fmt: skip
def test_ways_to_generate_see(pair: AlignedPair, options: dict) -> None:
    prompts = [show("which?", picture(1), picture(2)), show("what?", picture(3))]
    alone = []
    for prompt in prompts:
        batch = encode(pair, [render(pair, prompt, None, 0)])
        given = {
            "input_ids": batch.ids,
            "attention_mask": batch.mask,
            "multimodal": batch.multimodal,
            "pad_token_id": 257,
        }
        alone.append(pair.generate(**given, max_new_tokens=6, **options)[:, batch.ids.shape[1] :].tolist())
        if "num_beams" not in options:
            assert alone[-1] == pair.generate(**given, max_new_tokens=6)[:, batch.ids.shape[1] :].tolist()
    batch = encode(pair, [render(pair, prompt, None, 0) for prompt in prompts])
    given = {"input_ids": batch.ids, "attention_mask": batch.mask, "multimodal": batch.multimodal, "pad_token_id": 257}
    together = pair.generate(**given, max_new_tokens=6, **options)[:, batch.ids.shape[1] :].tolist()
    assert together == [row for rows in alone for row in rows]


def test_pictures_beside_a_text_that_is_held_already_are_refused(pair: AlignedPair) -> None:
    batch = encode(pair, [render(pair, show("what?", picture(3)), None, 0)])
    asked = {"multimodal": batch.multimodal, "max_new_tokens": 2, "eos_token_id": None, "pad_token_id": 257}
    first = pair.generate(input_ids=batch.ids, attention_mask=batch.mask, return_dict_in_generate=True, **asked)
    more = torch.cat([first.sequences, batch.ids[:, :3]], dim=1)
    with pytest.raises(ConfigError, match="pictures beside a cache that holds a text would not be read"):
        pair.generate(input_ids=more, **{cache_names.host_name(): cache_names.take(dict(first))}, **asked)


@pytest.mark.parametrize("option", ["prompt_lookup_num_tokens", "prefill_chunk_size"])
def test_what_takes_prompts_apart_is_refused(pair: AlignedPair, option: str) -> None:
    batch = encode(pair, [render(pair, show("what?", picture(3)), None, 0)])
    with pytest.raises(ConfigError, match=f"{option} takes apart tokens that stand for pictures"):
        pair.generate(input_ids=batch.ids, multimodal=batch.multimodal, max_new_tokens=2, **{option: 3})


def test_a_picture_is_given_in_any_way(pair: AlignedPair, tmp_path: Path) -> None:
    image = picture(1)
    file = as_file(tmp_path, image)
    url = "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()
    parts = [
        {"type": "image", "image": file},
        {"type": "image", "path": Path(file)},
        {"type": "image", "image": Path(file).read_bytes()},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image", "image": {"bytes": Path(file).read_bytes(), "path": None}},
        {"type": "image", "image": image},
    ]
    prompts = [[{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}] for part in parts]
    assert len(set(answer(pair, prompts, max_new_tokens=6))) == 1


def test_sides_with_different_processors_are_refused(llava, tmp_path: Path) -> None:
    other = save(FAMILIES["llava"], 1, tmp_path)
    processor = FAMILIES["llava"].processor()
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(tmp_path)
    with pytest.raises(VocabMismatch, match="processors differ in image image_mean"):
        AlignedPair.from_pretrained(policy=llava[0], reference=other)


def test_an_adapter_from_disk(llava, tmp_path: Path) -> None:
    base = save(FAMILIES["llava"], 4, tmp_path / "base")
    model = with_adapters(FAMILIES["llava"], ("policy",))
    model.save_pretrained(tmp_path / "saved")
    one_base = AlignedPair.from_pretrained(reference=base, adapter=str(tmp_path / "saved" / "policy"), dtype="float32")
    assert one_base.proof is not None and one_base.proof.path.startswith("shared rows")
    prompts = [show("which?", picture(1), picture(2)), show("what?", picture(3))]
    found = answer(one_base, prompts, max_new_tokens=6, batch_size=2)
    assert found == answer(one_base, prompts, max_new_tokens=6, batch_size=1)
    merged = tmp_path / "merged"
    model.merge_and_unload().save_pretrained(merged)
    FAMILIES["llava"].processor().save_pretrained(merged)
    two = AlignedPair.from_pretrained(policy=str(merged), reference=base, dtype="float32")
    assert answer(two, prompts, max_new_tokens=6) == found


def test_a_checkpoint_without_a_processor_reads_text(llava, tmp_path: Path) -> None:
    for seed, name in enumerate(("policy", "reference")):
        FAMILIES["llava"].model(seed).save_pretrained(tmp_path / name)
        FAMILIES["llava"].processor().tokenizer.save_pretrained(tmp_path / name)
    with pytest.raises(ConfigError, match=r"cannot load .*LlavaConfig"):  # no causal LM of text alone
        AlignedPair.from_pretrained(policy=str(tmp_path / "policy"), reference=str(tmp_path / "reference"))


@pytest.mark.parametrize("torchvision", [False, True])
def test_smolvlms_own_processor_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchvision: bool) -> None:
    """It must be given a part for videos, which was left out of ours: such checkpoints were read as text alone."""
    import transformers.utils

    monkeypatch.setattr(transformers.utils, "is_torchvision_available", lambda: torchvision)
    policy, reference = (save(FAMILIES["smolvlm"], seed, tmp_path / str(seed)) for seed in (0, 1))
    pair = AlignedPair.from_pretrained(policy=policy, reference=reference, dtype="float32")
    assert type(pair.processor).__name__ == "SmolVLMProcessor" and pair.processor.image_seq_len == 4
    prompts = [show("which?", picture(1), picture(2)), show("what?", picture(3))]
    whole = answer(pair, prompts, max_new_tokens=4, batch_size=2)
    made = AlignedPair(Checkpoints(*(FAMILIES["smolvlm"].model(seed) for seed in (0, 1))),
                       processor=FAMILIES["smolvlm"].processor(), vocab_size=pair.vocab_size)  # fmt: skip
    assert whole == answer(made, prompts, max_new_tokens=4, batch_size=1)


def test_smolvlms_processor_names_the_package_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.smolvlm import processing_smolvlm

    policy, reference = (save(FAMILIES["smolvlm"], seed, tmp_path / str(seed)) for seed in (0, 1))
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(ConfigError, match=r"num2words.*; pip install 'aad_plugin\[vision\]' brings what pictures need"):
        AlignedPair.from_pretrained(policy=policy, reference=reference, dtype="float32")


def test_more_pictures_than_the_template_takes(pair: AlignedPair) -> None:
    whole = pair.processor.chat_template
    try:
        pair.processor.chat_template = (
            "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'image' and loop.first %}<image>"
            "{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
        )
        with pytest.raises(ConfigError, match="prompt 1 has 2 pictures, and its text 1 places for one"):
            answer(pair, [show("which?", picture(1), picture(2))], max_new_tokens=2)
    finally:
        pair.processor.chat_template = whole
    with pytest.raises(ConfigError, match="prompt 1 has 1 pictures, and its text 2 places for one"):
        answer(pair, [show("which <image>?", picture(1))], max_new_tokens=2)


def test_the_command_line_contrasts(aad, llava, pair: AlignedPair, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "one.png")
    parts = ["--policy", llava[0], "--reference", llava[1], "--max-new-tokens", "6", "--model-args", "dtype=float32"]
    shown = ["--image", str(tmp_path / "one.png"), "--output", str(tmp_path / "out.jsonl")]
    ways = ["--strategies", "greedy,vcd", "--cd-alpha", "4", "--noise-step", "999"]
    done = aad("generate", "what is it?", *parts, *shown, *ways)
    assert done.exit_code == 0, done.output
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    asked = {"max_new_tokens": 6, "strategy": "vcd", "cd_alpha": 4, "noise_step": 999}
    assert [row["outputs"]["vcd"]] == answer(pair, [show("what is it?", picture(1))], **asked)
    assert set(row["outputs"]) == {"greedy", "vcd"}
    bare = aad("generate", "what is it?", *parts, "--strategies", "vcd")
    assert "these prompts show none: add a picture" in str(bare.exception)


def test_a_system_turn_is_read_beside_a_picture(pair: AlignedPair, monkeypatch) -> None:
    """The template leaves system turns out: the words open the user's turn, as they do for prompts of text."""
    template = pair.processor.chat_template.replace("for m in messages", "for m in messages if m['role'] == 'user'")
    monkeypatch.setattr(pair.processor, "chat_template", template)
    system = {"role": "system", "content": "In French."}
    assert render(pair, [system, *show("what?", picture(1))], None, 0).text == (
        "<user>In French.\n\n<image>what?<assistant>"
    )


def test_text_that_holds_the_word_for_a_picture_is_refused_without_a_template_too(pair: AlignedPair) -> None:
    with pytest.raises(ConfigError, match="prompt 1 has 0 pictures, and its text 1 places for one"):
        render(pair, "say <image> ok", False, 0)


def test_no_reward_model_guides_answers_to_pictures(pair: AlignedPair, monkeypatch) -> None:
    """It would read the tokens of a picture's place, and not the picture."""
    from aad_plugin.pair.guides import Guides
    from aad_plugin.pair.reward_guide import RewardReader
    from tests.pair.test_guide_loading import reward_model

    monkeypatch.setattr(pair, "guides", Guides([RewardReader(reward_model(), "guide1", "reward:small")]))
    batch = encode(pair, [render(pair, show("what?", picture(1)), None, 0)])
    settings = pair.settings.override(strategy="guided")
    with pytest.raises(ConfigError, match="cannot guide answers to pictures, got guide=reward:small: leave it out"):
        pair(batch.ids, batch.mask, logits_to_keep=1, settings=settings, multimodal=batch.multimodal)
