"""What decoding leaves out of the reference's work, and what that must not change: tokens, weights, caches."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from aad_plugin.errors import ConfigError
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.step import Step
from aad_plugin.sources.known_options import SHORTCUTS
from tests.pairs import KINDS, toy_pair
from tests.toys import EOS, PAD, VOCAB, left_pad, random_prompts, spread, toy_model

OPTIONS = dict(max_new_tokens=24, pad_token_id=PAD, eos_token_id=EOS)


def rows(pair: AlignedPair, shortcuts: str, **options) -> list[list[int]]:
    pair.shortcuts = shortcuts
    ids, mask = left_pad(random_prompts([4, 19, 11]))
    return pair.generate(input_ids=ids, attention_mask=mask, **{**OPTIONS, **options}).tolist()


def soft_capped(seed: int) -> Gemma2ForCausalLM:
    """A model whose logits are not what its head gives."""
    torch.manual_seed(seed)
    shape = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    more = dict(num_key_value_heads=2, head_dim=8, final_logit_softcapping=4.0, eos_token_id=EOS, pad_token_id=PAD)
    model = Gemma2ForCausalLM(Gemma2Config(**shape, **more)).eval()
    spread(model)
    return model


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_every_shortcut_gives_the_same_tokens(kind, options):
    pair = toy_pair(kind).pair
    wanted = rows(pair, "none", **options)
    for shortcuts in SHORTCUTS:
        assert rows(pair, shortcuts, **options) == wanted


@pytest.mark.parametrize("shortcuts", ["candidates", "lazy"])
def test_drafts_rejected_by_a_late_reference_are_forgotten(shortcuts):
    pair = toy_pair("two_models").pair
    prompt = random_prompts([12])[0] * 2
    wanted = pair.generate(input_ids=torch.tensor([prompt]), **OPTIONS).tolist()
    pair.shortcuts = shortcuts
    drafted = pair.generate(input_ids=torch.tensor([prompt]), prompt_lookup_num_tokens=4, **OPTIONS).tolist()
    assert drafted == wanted


def test_a_head_that_is_capped_is_projected_whole():
    policy, reference = soft_capped(1), soft_capped(2)
    pair = AlignedPair(Checkpoints(policy, reference), vocab_size=VOCAB)
    assert rows(pair, "lazy") == rows(pair, "none")
    assert not pair.sides._heads["reference"].gives_columns
    plain = toy_pair("two_models").pair
    rows(plain, "lazy")
    assert plain.sides._heads["reference"].gives_columns


def test_a_late_reference_reads_less_often():
    toy = toy_pair("two_models")
    calls = []
    toy.pair.sides.reference_model.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for shortcuts in ("candidates", "lazy"):
        toy.pair.shortcuts = shortcuts
        calls.clear()
        for prompt in random_prompts([3, 17, 9, 24]):
            toy.pair.generate(input_ids=torch.tensor([prompt]), max_new_tokens=32, pad_token_id=PAD, eos_token_id=None)
        counts.append(len(calls))
    assert counts[0] == 4 * 32
    assert counts[1] < 0.9 * counts[0]


def test_two_loads_of_one_checkpoint_stay_greedy():
    pair = AlignedPair(Checkpoints(toy_model("llama", 0), toy_model("llama", 0)))
    greedy = rows(pair, "auto", strategy="greedy")
    assert rows(pair, "auto") == greedy


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["reference_plus_lora", "two_adapters"])
def test_a_moved_base_is_laid_out_anew_and_held_once(kind, dtype):
    toy = toy_pair(kind)
    ids = torch.tensor([random_prompts([12])[0]])
    toy.pair(ids)
    toy.pair.to(dtype)
    found = toy.pair.sides.logits(("policy", "reference"), Step(ids))
    wanted = [toy.policy(ids[0].tolist()), toy.reference(ids[0].tolist())]
    for got, want in zip(found, wanted, strict=True):
        # bfloat16 keeps 8 bits of logits of about 10.
        torch.testing.assert_close(
            got[0, -1, : len(want)].double(),
            torch.as_tensor(want).double(),
            rtol=0,
            atol=1e-4 if dtype == torch.float64 else 0.5,
        )
    attention = toy.pair.sides.policy.model.layers[0].self_attn
    for name in ("q_proj", "v_proj"):
        weight = getattr(attention, name).get_base_layer().weight
        assert weight.untyped_storage().nbytes() > weight.nbytes, "a base's weight is part of its product's"


def test_a_cache_forgets_unread_tokens_first():
    class Counting:
        def __init__(self):
            self.cropped = []

        def crop(self, number):
            self.cropped.append(number)

    policy, reference = Counting(), Counting()
    cache = PairCache(policy, reference)
    cache.put_off(input_ids=torch.tensor([[1, 2]]), position_ids=None)
    cache.put_off(input_ids=torch.tensor([[3]]), position_ids=None)
    cache.crop(-2)
    assert (policy.cropped, reference.cropped) == ([-2], [0])
    cache.crop(-3)  # one unread, two that both have read
    assert (policy.cropped, reference.cropped) == ([-2, -3], [0, -2])
    cache.put_off(input_ids=torch.tensor([[9], [8]]), position_ids=torch.tensor([[0], [4]]))
    cache.caches = ()
    cache.reorder_cache(torch.tensor([1, 1]))
    assert {name: value.tolist() for name, value in cache.catch_up().items()} == {
        "input_ids": [[8], [8]], "position_ids": [[4], [4]]
    }  # fmt: skip
    assert cache.catch_up() == {}


def test_an_unknown_shortcut_is_refused():
    with pytest.raises(ConfigError, match="shortcuts must be one of auto, none, candidates, lazy, packed, got 'fast'"):
        AlignedPair(Checkpoints(toy_model("llama", 0), toy_model("llama", 1)), shortcuts="fast")
