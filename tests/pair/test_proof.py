"""A pair proves itself: fast paths stay where they are right, a planted wrong result is found, a plainer path taken."""

from __future__ import annotations

import contextlib
import logging

import pytest
import torch
from transformers import DynamicCache, GemmaConfig, GemmaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.cache_utils import DynamicSlidingWindowLayer

from aad_plugin.errors import ProofFailed
from aad_plugin.pair import (
    adapter_rows,
    adapter_siblings,
    cache_names,
    checkpoints,
    one_base,
    proof,
    reading,
    sides_by_row,
    sides_in_turns,
)
from aad_plugin.pair.cache import PairCache
from aad_plugin.pair.checkpoints import Checkpoints
from aad_plugin.pair.head import HeadInput
from aad_plugin.pair.model import AlignedPair
from aad_plugin.pair.one_base import OneBase
from aad_plugin.pair.proof_checks import CHECKS, USES
from aad_plugin.pair.step import Step
from tests.pairs import KINDS, toy_pair
from tests.toys import BUILDERS, EOS, PAD, VOCAB, left_pad, random_prompts

FAST = {"two_models": "two models", "reference_plus_lora": "shared rows", "two_adapters": "shared rows"}


@pytest.fixture(autouse=True)
def own_memory(monkeypatch, tmp_path):
    """Nothing is remembered from another test."""
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path / "cache"))


def mistral():
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=64, max_position_embeddings=512, eos_token_id=EOS, pad_token_id=PAD,
            bos_token_id=None,
        )
    )  # fmt: skip


def gemma():
    return GemmaForCausalLM(
        GemmaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=512, eos_token_id=EOS, pad_token_id=PAD,
            bos_token_id=None,
        )
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gpt2", "gemma", "mistral"])
def test_the_fast_path_stays(arch, kind, dtype, monkeypatch):
    monkeypatch.setitem(BUILDERS, "gemma", gemma)
    monkeypatch.setitem(BUILDERS, "mistral", mistral)
    pair = toy_pair(kind, arch).pair.to(dtype)
    shortcuts = pair.shortcuts
    found = pair.prove()
    assert (found.path, found.status, found.avoided) == (FAST[kind], "proven", ())
    assert pair.shortcuts == shortcuts and pair.is_cached


# ------------------------------------------------------------------------------------ planted wrong results


@contextlib.contextmanager
def rows_sliced_wrongly(patch):
    """Rows of a batch are given to the wrong sides: the reference's adapter reads half of the policy's."""
    use = adapter_rows.AdapterRows.use

    @contextlib.contextmanager
    def shifted(self, names, rows):
        with use(self, list(reversed(names)) if len(names) == 2 else names, rows):
            yield

    patch.setattr(adapter_rows.AdapterRows, "use", shifted)
    yield


@contextlib.contextmanager
def a_mask_lost(patch):
    """Padding is read as text."""
    read = reading.read_model
    for module in (checkpoints, one_base, sides_in_turns):
        patch.setattr(
            module, "read_model", lambda model, step, sides=1: read(model, Step(step.input_ids, step.cache, step.keep))
        )
    yield


@contextlib.contextmanager
def the_caches_name_broken(patch):
    """What transformers 5.24 did: the cache is passed by a name that falls into ``**kwargs``."""
    patch.setattr(reading, "named_cache", lambda model, cache: {} if cache is None else {"kv_store": cache})
    yield


@contextlib.contextmanager
def unread_tokens_forgotten(patch):
    """A reference that reads late never reads what was put off."""
    patch.setattr(PairCache, "put_off", lambda self, **inputs: self._unread.update(
        {name: value for name, value in inputs.items() if value is not None}
    ))  # fmt: skip
    yield


@contextlib.contextmanager
def columns_of_another_row(patch):
    """Single columns of the head are taken for the wrong position."""
    values = HeadInput.values
    patch.setattr(HeadInput, "values", lambda self, hidden, logits, found: values(
        self, hidden.roll(1, 1), logits.roll(1, 0), found
    ))  # fmt: skip
    yield


@contextlib.contextmanager
def a_crop_that_keeps(patch):
    """Rejected drafts stay in the cache."""
    patch.setattr(PairCache, "crop", lambda self, tokens_to_remove: None)
    yield


@contextlib.contextmanager
def a_static_cache_of_another_model(patch):
    """A static cache whose update loses what it holds."""
    from transformers.cache_utils import StaticLayer

    update = StaticLayer.update

    def losing(self, key_states, value_states, *args, **kwargs):
        found = update(self, key_states * 0.5, value_states, *args, **kwargs)
        return found

    patch.setattr(StaticLayer, "update", losing)
    yield


@contextlib.contextmanager
def padding_seen_by_single_tokens(patch):
    """The mask of a token that is read after the prompt forgets the padding."""
    mask = reading.step_mask
    patch.setattr(reading, "step_mask", lambda model, given, ids, cache: mask(
        model, torch.ones_like(given) if ids.shape[1] == 1 else given, ids, cache
    ))  # fmt: skip
    yield


@contextlib.contextmanager
def a_window_that_keeps_too_little(patch):
    """A cache forgets tokens that the model's mask still shows."""
    init = DynamicSlidingWindowLayer.__init__
    patch.setattr(DynamicSlidingWindowLayer, "__init__", lambda self, window, *given, **named: init(
        self, max(2, window - 3), *given, **named
    ))  # fmt: skip
    yield


@contextlib.contextmanager
def weights_merged_with_nothing(patch):
    """The policy's own weights are the base's."""
    patch.setattr(
        adapter_siblings.Siblings, "_merge", lambda self, place, name: self.bases[place].weight.detach().clone()
    )
    yield


PLANTED = {
    ("window", "two_models"): a_window_that_keeps_too_little,
    ("window", "reference_plus_lora"): a_window_that_keeps_too_little,
    ("rows", "reference_plus_lora"): rows_sliced_wrongly,
    ("rows", "two_adapters"): rows_sliced_wrongly,
    ("rows", "two_models"): a_mask_lost,
    ("cache", "two_models"): the_caches_name_broken,
    ("cache", "reference_plus_lora"): the_caches_name_broken,
    ("candidates", "two_models"): columns_of_another_row,
    ("candidates", "reference_plus_lora"): columns_of_another_row,
    ("late", "two_models"): unread_tokens_forgotten,
    ("alone", "reference_plus_lora"): weights_merged_with_nothing,
    ("alone", "two_adapters"): weights_merged_with_nothing,
}
PLANTED_USES = {"drafts": a_crop_that_keeps, "static cache": a_static_cache_of_another_model}


def test_every_path_has_a_planted_fault():
    assert {check for check, _ in PLANTED} == set(CHECKS), "a path without a planted fault is not known to be checked"
    assert set(PLANTED_USES) == set(USES)


@pytest.mark.parametrize(("check", "kind"), PLANTED, ids=str)
def test_a_planted_fault_is_found(check, kind, monkeypatch):
    monkeypatch.setitem(BUILDERS, "mistral", mistral)
    arch = "mistral" if check == "window" else "llama"
    pair, right = toy_pair(kind, arch).pair, toy_pair(kind, arch).pair
    with PLANTED[check, kind](monkeypatch):
        assert proof._first_difference(pair, [], {check: CHECKS[check]})
    monkeypatch.undo()
    assert proof._first_difference(right, []) is None


def test_a_late_reference_that_forgets_is_found(monkeypatch):
    pair = toy_pair("two_models").pair
    with unread_tokens_forgotten(monkeypatch):
        assert "cache" in proof._first_difference(pair, [], {"cache": CHECKS["cache"]})


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_tokens_mask_is_checked(kind, monkeypatch):
    pair = toy_pair(kind).pair
    with padding_seen_by_single_tokens(monkeypatch):
        assert "cache" in proof._first_difference(pair, [], {"cache": CHECKS["cache"]})


def test_a_pair_whose_merged_weights_are_wrong_merges_nothing(monkeypatch):
    pair, right = toy_pair("reference_plus_lora").pair, toy_pair("reference_plus_lora").pair
    with weights_merged_with_nothing(monkeypatch):
        found = pair.prove()
    assert found.path == "shared rows, nothing merged" and "merged weights" in found.avoided[0]
    assert not pair.sides.can_merge
    monkeypatch.undo()
    prompt = torch.tensor([random_prompts([10])[0]])
    options = dict(max_new_tokens=24, pad_token_id=PAD, eos_token_id=EOS, strategy="greedy")
    assert pair.generate(input_ids=prompt, **options).tolist() == right.generate(input_ids=prompt, **options).tolist()


@pytest.mark.parametrize(("use", "kind"), [(use, kind) for use in USES for kind in KINDS[:2]])
def test_a_planted_fault_of_an_option_is_refused_on_first_use(use, kind, monkeypatch):
    pair = toy_pair(kind).pair
    option = {"drafts": {"prompt_lookup_num_tokens": 3}, "static cache": {"cache_implementation": "static"}}[use]
    ids = torch.tensor([random_prompts([12])[0] * 2])
    with PLANTED_USES[use](monkeypatch), pytest.raises(ProofFailed, match=f"{use} would change this pair's tokens"):
        pair.generate(input_ids=ids, max_new_tokens=4, **option)
    monkeypatch.undo()
    pair.generate(input_ids=ids, max_new_tokens=4, **option)
    assert pair.proven_uses == {use}


# ----------------------------------------------------------------------------------------------- the ladder


def test_a_base_that_cannot_share_rows_is_read_in_turns(monkeypatch, caplog):
    pair, right = toy_pair("reference_plus_lora").pair, toy_pair("reference_plus_lora").pair
    with rows_sliced_wrongly(monkeypatch), caplog.at_level(logging.WARNING):
        found = pair.prove()
    assert found.path == "one side after the other" and "shared rows" in found.avoided[0]
    assert caplog.text.count("read by the plainer path 'one side after the other'") == 1
    monkeypatch.undo()
    prompt = torch.tensor([random_prompts([10])[0]])
    options = dict(max_new_tokens=24, pad_token_id=PAD, eos_token_id=EOS)
    for strategy in ("aad", "greedy", "reference", "eft"):
        ours = pair.generate(input_ids=prompt, strategy=strategy, **options)
        assert ours.tolist() == right.generate(input_ids=prompt, strategy=strategy, **options).tolist()


def test_no_cache_is_the_last_path(monkeypatch):
    pair, right = toy_pair("two_models").pair, toy_pair("two_models").pair
    prompt = torch.tensor([random_prompts([10])[0]])
    wanted = right.generate(input_ids=prompt, max_new_tokens=12, pad_token_id=PAD, eos_token_id=EOS)
    with the_caches_name_broken(monkeypatch):
        assert pair.prove().path == "two models, no cache"
    ours = pair.generate(input_ids=prompt, max_new_tokens=12, pad_token_id=PAD, eos_token_id=EOS)
    assert ours.tolist() == wanted.tolist()
    assert pair.new_cache() is None


@pytest.mark.parametrize("kind", ["two_models", "reference_plus_lora"])
def test_row_by_row_is_the_very_last_path(kind, monkeypatch):
    """A model that no padded batch reaches rightly, as decoders with positions of their own."""
    pair, right = toy_pair(kind).pair, toy_pair(kind).pair
    ids, mask = left_pad(random_prompts([4, 10]))
    options = dict(attention_mask=mask, max_new_tokens=12, pad_token_id=PAD, eos_token_id=EOS)
    with a_mask_lost(monkeypatch):
        found = pair.prove()
        assert found.path.endswith(", row by row") and len(found.avoided) == (3 if kind == "two_models" else 4)
        again = toy_pair(kind).pair
        assert (again.prove().path, again.proof.status) == (found.path, "remembered")
    monkeypatch.undo()
    for strategy in ("aad", "greedy", "reference", "eft"):
        ours = pair.generate(input_ids=ids, strategy=strategy, **options)
        assert ours.tolist() == right.generate(input_ids=ids, strategy=strategy, **options).tolist()


def test_where_no_path_agrees_nothing_is_answered(monkeypatch):
    pair = toy_pair("two_models").pair
    read = sides_by_row.read_model
    monkeypatch.setattr(sides_by_row, "read_model", lambda *given: read(*given).flip(-1))
    with a_mask_lost(monkeypatch), pytest.raises(ProofFailed, match=r"no way to decode this pair .* transformers \d"):
        pair.prove()


def test_a_passed_proof_is_remembered_and_other_weights_are_not(monkeypatch):
    pair = toy_pair("two_models").pair
    assert pair.prove().status == "proven"
    again = toy_pair("two_models").pair
    calls = []
    again.sides.policy_model.register_forward_pre_hook(lambda *args: calls.append(1))
    assert again.prove().status == "remembered" and calls == [1]  # one token, by which the heads know themselves
    with torch.no_grad():
        again.sides.reference_model.lm_head.weight.mul_(1.5)
    assert again.prove().status == "proven"
    monkeypatch.setenv("AAD_PLUGIN_PROOF", "0")
    assert again.prove().status == "left out"


@pytest.mark.parametrize("kind", KINDS)
def test_a_pairs_account_is_the_same_whether_its_proof_was_made_or_is_remembered(kind, monkeypatch):
    from aad_plugin.pair.account import describe

    found = []
    for _ in range(2):
        pair = toy_pair(kind).pair
        pair.shortcuts = "candidates"
        found.append((pair.prove().status, describe(pair)))
        assert not pair.sides.passes
    assert [status for status, _ in found] == ["proven", "remembered"] and found[0][1] == found[1][1]
    monkeypatch.setenv("AAD_PLUGIN_PROOF", "0")
    pair = toy_pair(kind).pair
    pair.shortcuts = "candidates"
    assert pair.prove().status == "left out"
    assert describe(pair)["choice_head"] == found[0][1]["choice_head"] == "float32"


def test_the_proof_counts_no_pass_and_takes_few_forwards():
    for kind in KINDS:
        pair = toy_pair(kind).pair
        calls = []
        pair.sides.policy.register_forward_pre_hook(lambda *args, calls=calls, **kwargs: calls.append(1))
        pair.prove()
        assert not pair.sides.passes
        # Ten of the policy's; a shared base is also read alone for the reference.
        assert len(calls) <= (10 if kind == "two_models" else 13)


def test_an_expert_routers_near_tie_does_not_count(monkeypatch):
    """One text of three differs."""
    pair = toy_pair("two_models").pair
    said = iter(["a tie", None])
    monkeypatch.setitem(CHECKS, "cache", lambda pair, text: next(said))
    assert pair.prove().path == "two models"


def test_models_that_are_equal_prove_themselves_too():
    model = toy_pair("two_models").pair.sides.policy_model
    assert AlignedPair(Checkpoints(model, model)).prove().path == "two models"


def test_loading_proves(checkpoints):
    for kind in KINDS:
        pair = AlignedPair.from_pretrained(**checkpoints.model_args(kind))
        assert pair.proof.path == FAST[kind]
    assert isinstance(pair.sides, OneBase)


def test_every_method_of_a_cache_reaches_both_models():
    """What a host's cache can do to one model, a pair's cache does to both, or is known to only read."""
    only_read = {
        "get_seq_length", "get_max_length", "get_max_cache_shape", "get_mask_sizes", "is_sliding", "is_initialized",
        "is_compileable", "is_croppable", "is_linear", "max_batch_size", "max_cache_len", "batch_size", "update",
        "has_previous_state", "is_dummy", "is_recording_past", "get_query_offset",
    }  # fmt: skip
    public = {name for name in dir(DynamicCache) if not name.startswith("_")}
    inherited = {name for name in public if name not in vars(PairCache)} - only_read
    assert not inherited, f"PairCache does not pass on {sorted(inherited)}"


def test_the_host_name_is_known():
    assert cache_names.host_name() in cache_names.NAMES
