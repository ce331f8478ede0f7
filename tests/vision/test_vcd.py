"""Visual contrastive decoding: two forward passes of the policy alone per step, one of them with noisy pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aad_plugin import AlignedPair, answer
from aad_plugin.decoding import vcd_scores
from aad_plugin.errors import ConfigError
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.encoding import encode as encode_prompts
from aad_plugin.pair.encoding import render
from aad_plugin.pair.multimodal import take_multimodal
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.sides_in_turns import OneBaseInTurns
from aad_plugin.pair.strategies import decode
from aad_plugin.settings import DecodingSettings
from tests.toys import EOS, PAD, NaiveRun, log_softmax
from tests.vision.families import FAMILIES, Family, picture, with_adapters
from tests.vision.oracle import PROMPTS, encode, noisy, same, seeing_logits
from tests.vision.test_equality import PeftSide, family_marks

SEEING = [prompt for prompt in PROMPTS if prompt[1]]  # two pictures, one, one
SETTINGS = DecodingSettings(strategy="vcd", cd_alpha=1.5, cd_beta=0.05, noise_step=700)
OPTIONS = {"strategy": "vcd", "cd_alpha": 1.5, "cd_beta": 0.05, "noise_step": 700}
STEPS = 6


def naive(policy, model, family: Family, prompt, settings: DecodingSettings = SETTINGS, steps: int = STEPS) -> NaiveRun:
    """The paper's loop over one prompt: argmax of (1 + α) l(v) − α l(v') where l(v) ≥ max l(v) + log β."""
    encoded = encode(family, [prompt])
    own, other = seeing_logits(policy, encoded), seeing_logits(policy, noisy(model, encoded, settings))
    prefix, tokens, margins, sizes = encoded["input_ids"][0].tolist(), [], [], []
    for _ in range(steps):
        seen, unseen = own(prefix + tokens), other(prefix + tokens)
        inside = seen >= seen.max() + math.log(settings.cd_beta)
        scores = np.where(inside, (1 + settings.cd_alpha) * seen - settings.cd_alpha * unseen, -np.inf)
        best = np.sort(scores)[-2:]
        edge = np.abs(seen - seen.max() - math.log(settings.cd_beta)).min()
        tokens.append(int(scores.argmax()))
        margins.append(float(min(best[1] - best[0], edge)))
        sizes.append(int(inside.sum()))
        if tokens[-1] == EOS:
            break
    return NaiveRun(tokens, margins, sizes)


def decoded(pair: AlignedPair, family: Family, prompts, **more) -> list[list[int]]:
    encoded = encode(family, prompts)
    given = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": PAD, **OPTIONS, **more}
    return pair.generate(**encoded, **given)[:, encoded["input_ids"].shape[1] :].tolist()


def two_checkpoints(family: Family) -> AlignedPair:
    return AlignedPair(Checkpoints(family.model(0), family.model(1)))


# ------------------------------------------------------------------------------------------------ the rule


def test_hand_worked() -> None:
    # l(v) = 2, 1.9, 1, -9 and l(v') = 2, 0.9, -9, -9; α = 1: 2·2 − 2 = 2, 2·1.9 − 0.9 = 2.9, 2 + 9 = 11, -9.
    # β = 0.5 keeps logits ≥ 2 + log 0.5 = 1.307: the third token, whose sum is largest, is cut.
    policy, other = torch.tensor([[2, 1.9, 1, -9]]), torch.tensor([[2, 0.9, -9, -9]])
    scores = vcd_scores(policy, other, 1.0, 0.5)
    assert scores.argmax().item() == 1
    assert (scores[0, 1] - scores[0, 0]).item() == pytest.approx(0.9, abs=1e-5)
    assert torch.isfinite(scores).all()
    assert vcd_scores(policy, other, 1.0, 0.1).argmax().item() == 2


def test_no_weight_no_difference_and_beta_one_are_greedy() -> None:
    torch.manual_seed(0)
    policy, other = torch.randn(8, 50), torch.randn(8, 50)
    greedy = policy.argmax(-1)
    for scores in (vcd_scores(policy, other, 0.0, 0.1), vcd_scores(policy, policy, 3.0, 0.1),
                   vcd_scores(policy, other, 3.0, 1.0)):  # fmt: skip
        assert torch.equal(scores.argmax(-1), greedy)


# ------------------------------------------------------------------------------------------------ the noise


@pytest.mark.parametrize("family", family_marks())
def test_a_picture_has_one_noise_alone_and_in_a_batch(family: Family) -> None:
    model = family.model(0)
    together = noisy(model, encode(family, SEEING), SETTINGS)
    alone = [noisy(model, encode(family, [prompt]), SETTINGS)["pixel_values"] for prompt in SEEING]
    own = encode(family, SEEING)
    assert own["pixel_values"].shape == together["pixel_values"].shape
    assert not torch.equal(own["pixel_values"], together["pixel_values"])
    padded = [F.pad(one, _room(one, together["pixel_values"])) for one in alone]
    assert torch.equal(torch.cat(padded), together["pixel_values"])


def _room(one: torch.Tensor, like: torch.Tensor) -> list[int]:
    sizes = [(wide - narrow) for wide, narrow in zip(like.shape[1:], one.shape[1:], strict=True)]
    return [number for size in reversed(sizes) for number in (0, size)]


def test_the_noise_is_a_diffusions() -> None:
    family = FAMILIES["llava"]
    model, encoded = family.model(0), encode(FAMILIES["llava"], SEEING)
    # ᾱ at a step, by the schedule's own words in float64.
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (5e-3 - 1e-5) + 1e-5
    for step in (0, 500, 999):
        left = np.prod(1 - betas[: step + 1])
        got = noisy(model, encoded, DecodingSettings(strategy="vcd", noise_step=step))["pixel_values"]
        rest = got - math.sqrt(left) * encoded["pixel_values"]
        assert rest.std().item() == pytest.approx(math.sqrt(1 - left), rel=0.03)
        assert abs(rest.mean().item()) < 0.03
    one, other = (noisy(model, encoded, DecodingSettings(strategy="vcd", seed=seed)) for seed in (1, 2))
    assert not torch.equal(one["pixel_values"], other["pixel_values"])


def test_frames_of_a_still_picture_share_their_noise() -> None:
    """Qwen2-VL reads each picture as two equal frames, whose independent noise would partly cancel."""
    family = FAMILIES["qwen2_vl"]
    values = noisy(family.model(0), encode(family, SEEING), SETTINGS)["pixel_values"]
    frames = values.view(len(values), 3, 2, 64)
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])


# ------------------------------------------------------------------------------------------------ equality


@pytest.mark.parametrize("family", family_marks())
def test_two_checkpoints(family: Family) -> None:
    """Alone, and in a padded batch of prompts with two pictures, one and one."""
    pair = two_checkpoints(family)
    policy = pair.sides.policy
    together = decoded(pair, family, SEEING)
    greedy = decoded(pair, family, SEEING, strategy="greedy")
    assert together != greedy
    for row, prompt in enumerate(SEEING):
        run = naive(policy, policy, family, prompt)
        assert same(run, decoded(pair, family, [prompt])[0]), f"alone, prompt {row}"
        assert same(run, together[row]), f"in a batch, prompt {row}"
    assert pair.sides.passes["reference"] == 0


@pytest.mark.parametrize("family", family_marks(("llava",)))
def test_a_lora_policy(family: Family) -> None:
    model = with_adapters(family, ("policy",))
    apart = family.name == "chameleon"  # its decoder reads the pictures
    adapters = {"policy": "policy", "reference": None}
    pair = AlignedPair(OneBaseInTurns(model, adapters) if apart else OneBase(model, "policy", None))
    together = decoded(pair, family, SEEING)
    for row, prompt in enumerate(SEEING):
        run = naive(PeftSide(model, "policy"), model.get_base_model(), family, prompt)
        assert same(run, together[row]), f"prompt {row}"


@pytest.mark.parametrize("options", [{"cache_implementation": "static"}, {"use_cache": False}], ids=str)
def test_other_caches(options: dict) -> None:
    family = FAMILIES["llava"]
    pair = two_checkpoints(family)
    found = decoded(pair, family, SEEING, **options)
    runs = [naive(pair.sides.policy, pair.sides.policy, family, prompt) for prompt in SEEING]
    assert all(same(run, row) for run, row in zip(runs, found, strict=True))


def test_beams_search_the_same_scores() -> None:
    family = FAMILIES["llava"]
    pair = two_checkpoints(family)
    policy, prompt = pair.sides.policy, SEEING[1]
    encoded = encode(family, [prompt])
    own, other = seeing_logits(policy, encoded), seeing_logits(policy, noisy(policy, encoded, SETTINGS))
    prefix = encoded["input_ids"][0].tolist()
    kept: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(4):
        grown = []
        for total, tokens in kept:
            seen, unseen = own(prefix + tokens), other(prefix + tokens)
            inside = seen >= seen.max() + math.log(0.05)
            row = log_softmax(np.where(inside, 2.5 * seen - 1.5 * unseen, -1e4))
            grown += [(total + row[token], [*tokens, int(token)]) for token in np.argsort(-row)[:4]]
        kept = sorted(grown, key=lambda beam: -beam[0])[:2]
    found = decoded(pair, family, [prompt], num_beams=2, max_new_tokens=4, eos_token_id=None)
    assert found[0] == kept[0][1]


def test_a_trace_shows_the_contrast() -> None:
    family = FAMILIES["llava"]
    pair = two_checkpoints(family)
    pair.processor = family.processor()
    pair.tokenizer = pair.processor.tokenizer
    turn = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "what"}]}]
    batch = encode_prompts(pair, [render(pair, turn, None, 0)])
    seen: list = []
    tokens = decode(
        pair, batch.ids, batch.mask, SETTINGS, multimodal=batch.multimodal, on_readings=seen.extend,
        max_new_tokens=STEPS, pad_token_id=PAD,
    )[:, batch.ids.shape[1] :]  # fmt: skip
    (reading,) = seen
    assert [ids[0] for ids in reading.ids] == tokens[0].tolist()[: len(reading.ids)]
    for policy, guide in zip(reading.log_policy, reading.guide, strict=True):
        sums = [p + g for p, g in zip(policy, guide, strict=True)]
        assert sums[0] == pytest.approx(max(sums[2:]), abs=1e-4)
    assert answer(pair, [turn], max_new_tokens=STEPS, **OPTIONS) == [
        pair.tokenizer.decode(tokens[0], skip_special_tokens=True)
    ]


# ------------------------------------------------------------------------------------------------ refusals


def test_a_prompt_without_a_picture_is_refused() -> None:
    family = FAMILIES["llava"]
    pair = two_checkpoints(family)
    with pytest.raises(ConfigError, match=r"prompt 3 of 4 shows none: add a picture") as told:
        decoded(pair, family, PROMPTS)
    assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match="these prompts show none"):
        decoded(pair, family, [PROMPTS[2]])


def test_a_pair_of_text_refuses() -> None:
    from tests.pairs import toy_pair

    pair = toy_pair("two_models").pair
    with pytest.raises(ConfigError, match="these prompts show none: add a picture"):
        pair.generate(input_ids=torch.tensor([[1, 2, 3]]), strategy="vcd", max_new_tokens=2, pad_token_id=PAD)


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"repetition_penalty": 1.3}], ids=str)
def test_options_that_would_give_other_tokens(options: dict) -> None:
    pair = two_checkpoints(FAMILIES["llava"])
    with pytest.raises(ConfigError, match=next(iter(options))):
        decoded(pair, FAMILIES["llava"], [SEEING[1]], **options)


def test_vllm_refuses() -> None:
    from aad_plugin.engine.requests import extra_args

    with pytest.raises(ConfigError, match="use --model aad-multimodal"):
        extra_args(SETTINGS)


@pytest.mark.parametrize(("name", "value", "said"), [
    ("cd_alpha", -1, "from 0 to 1e"), ("cd_beta", 0, r"in \(0, 1\]"), ("noise_step", 1000, "from 0 to 999"),
])  # fmt: skip
def test_ranges(name: str, value: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DecodingSettings(strategy="vcd", **{name: value})


def test_a_model_that_reads_pictures_inside_its_decoder_answers_several_times_from_one_reading() -> None:
    family = FAMILIES["chameleon"]
    pair = two_checkpoints(family)
    encoded = encode(family, SEEING)
    shown = take_multimodal(encoded, pair.sides.policy, encoded["input_ids"])
    ids, mask = (encoded[name].repeat_interleave(2, 0) for name in ("input_ids", "attention_mask"))
    given = {"multimodal": shown, "max_new_tokens": STEPS, "pad_token_id": PAD, **OPTIONS}
    found = pair.generate(ids, attention_mask=mask, copies=2, **given)[:, ids.shape[1] :].tolist()
    once = decoded(pair, family, SEEING)
    assert found[::2] == found[1::2] == once
    with pytest.raises(ConfigError, match="reads pictures inside its decoder, where beams and several answers"):
        decoded(pair, family, SEEING, num_beams=2)
