"""Guides named by words: what is loaded, what is the pair's own already, what results say, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from transformers import LlamaConfig, LlamaForSequenceClassification

from aad_plugin import AlignedPair, answer
from aad_plugin.errors import AADError, ConfigError, VocabMismatch
from aad_plugin.explain.explaining import explain
from aad_plugin.explain.trace_files import AnswerTrace, TraceFolder, TraceWriter
from aad_plugin.explain.views import compact_steps
from aad_plugin.files.marks import weights_mark
from aad_plugin.harness.arguments import PairArguments
from aad_plugin.harness.model import AADLM
from aad_plugin.harness.own_tasks import our_tasks_alone
from aad_plugin.pair.account import describe
from aad_plugin.pair.guide_loading import cast
from aad_plugin.pair.guides import TokenGuide
from aad_plugin.sources.parts import resolve
from tests.pair.test_guides import naive_guided
from tests.toys import EOS, PAD, VOCAB, byte_tokenizer, left_pad, model_logits, random_prompts, toy_model

STEPS = 12


def reward_model(seed: int = 6) -> LlamaForSequenceClassification:
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_labels=1,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, eos_token_id=EOS,
                         pad_token_id=PAD)  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    with torch.no_grad():
        model.score.weight.mul_(200)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("guides")
    for name, model in {
        "small": toy_model("gpt2", 8),
        "smaller": toy_model("qwen3", 9),
        "reward": reward_model(),
    }.items():
        model.save_pretrained(root / name)
        byte_tokenizer().save_pretrained(root / name)
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    toy_model("llama", 3).save_pretrained(root / "other")
    other.save_pretrained(root / "other")
    return {path.name: str(path) for path in root.iterdir()}


def test_what_the_pair_holds_is_not_loaded_twice(checkpoints):
    policy, reference = str(checkpoints.policy), str(checkpoints.reference)
    pair = AlignedPair.from_pretrained(policy=policy, reference=reference, guide=policy, guide_reference=reference)
    assert pair.guides.members == (TokenGuide("policy", "reference"),)
    assert list(pair.sides.models()) == ["policy", "reference"]
    adapters = checkpoints.model_args("two_adapters")
    own = AlignedPair.from_pretrained(**adapters, guide=adapters["adapter"], guide_reference=adapters["base"])
    assert own.guides.members == (TokenGuide("policy", "guide1_reference"),)
    assert own.sides.adapters["guide1_reference"] is None, "the base alone, as one more side of the shared rows"
    assert own.proof.path == "shared rows"


def test_a_guide_by_the_pairs_own_name_is_another_model_at_another_revision(checkpoints):
    source = resolve(policy="org/p", reference="org/r", guide="org/p", guide_reference="org/r")
    assert (
        cast(source).members == cast(source, {"policy": "main", "reference": None}).members == [("policy", "reference")]
    )
    found = cast(source, {"policy": "abc", "reference": None})
    assert found.members == [("guide1", "reference")] and list(found.checkpoints) == ["guide1"]
    local = resolve(
        policy=str(checkpoints.policy), reference="org/r", guide=str(checkpoints.policy), guide_reference="org/r"
    )
    assert cast(local, {"policy": "abc"}).members == [("policy", "reference")], "a folder has no revisions"


def test_a_policy_alone_is_guided_and_reads_the_guides_tokens(checkpoints, folders):
    pair = AlignedPair.from_pretrained(
        policy=str(checkpoints.policy), guide=f"{folders['small']}+{folders['small']}",
        guide_reference=f"{folders['smaller']}+none", guide_scale="1.5+0.5",
    )  # fmt: skip
    assert pair.settings.strategy == "guided"
    assert [one.role for one in pair.guides.members] == ["guide1", "guide1"], "one model serves both guides"
    models = pair.sides.models()
    naive = [(model_logits(models["guide1"]), model_logits(models["guide1_reference"]), 1.5),
             (model_logits(models["guide1"]), None, 0.5)]  # fmt: skip
    (prompt,) = random_prompts([6])
    run = naive_guided(model_logits(models["policy"]), naive, prompt, 0.1)
    found = pair.generate(torch.tensor([prompt]), max_new_tokens=len(run.tokens), do_sample=False)
    assert found[0, len(prompt) :].tolist() == run.tokens
    for strategy in ("aad", "eft", "reference", "best_of_2"):
        with pytest.raises(ConfigError, match="reads a reference, and this policy was given none"):
            answer(pair, ["a"], strategy=strategy, max_new_tokens=2)


def test_a_policy_alone_in_memory_scores_no_choices_by_a_reward(checkpoints, folders):
    pair = AlignedPair.from_pretrained(policy=str(checkpoints.policy), guide=str(folders["small"]))
    with pytest.raises(ConfigError, match="'implicit_reward' reads a reference, and this policy was given none"):
        AADLM(pretrained=pair, loglikelihood="implicit_reward", device="cpu")
    with pytest.raises(ConfigError, match="reads a reference, and this policy was given none"):
        AADLM(pretrained=pair, strategy="aad", device="cpu")


def test_one_name_at_two_revisions_is_a_pair(checkpoints, folders):
    source = resolve(policy="org/m", reference="org/m", guide=str(folders["small"]))
    assert not source.is_alone and source.parts()["reference"] == "org/m"
    assert resolve(policy="org/m", guide=str(folders["small"])).is_alone


def test_a_pair_folder_keeps_its_guides(checkpoints, folders, tmp_path):
    words = checkpoints.model_args("reference_plus_lora") | {"guide": folders["small"], "guide_scale": 2}
    pair = AlignedPair.from_pretrained(**words, strategy="guided")
    pair.save_pretrained(tmp_path / "pair")
    again = AlignedPair.from_pretrained(str(tmp_path / "pair"))
    assert again.guides.accounts[0]["model"]["weights"] == pair.guides.accounts[0]["model"]["weights"]
    assert answer(again, ["hello"], max_new_tokens=8) == answer(pair, ["hello"], max_new_tokens=8)
    other = AlignedPair.from_pretrained(policy=str(checkpoints.policy), guide=str(tmp_path / "pair"))
    assert other.guides.members[0].reference is not None, "a pair as a guide is measured against its own reference"


def test_results_and_the_answers_key_name_every_guide(checkpoints, folders):
    def model(**words):
        return AADLM(
            **checkpoints.model_args("two_models"), strategy="guided", device="cpu", answers_dir="none", **words
        )

    first = model(guide=folders["small"])
    said = first.get_model_info()["aad"]
    assert said["guides"][0]["model"]["weights"] and said["guides"][0]["reference"] is None
    assert said["parts"]["guide"] == folders["small"]
    marks = {first.cache_fingerprint()}
    marks.add(model(guide=folders["smaller"]).cache_fingerprint())
    marks.add(model(guide=folders["small"], guide_reference=folders["smaller"]).cache_fingerprint())
    marks.add(model(guide=f"{folders['small']}+{folders['smaller']}").cache_fingerprint())
    marks.add(model(guide=f"{folders['smaller']}+{folders['small']}").cache_fingerprint())
    marks.add(model(guide=f"reward:{folders['reward']}").cache_fingerprint())
    assert len(marks) == 6
    weight = first.model.sides.models()["guide1"].get_input_embeddings().weight
    with torch.no_grad():
        weight[0, 0] += 1
    assert first.cache_fingerprint() not in marks


def test_a_guides_adapter_is_marked_with_its_strength(checkpoints):
    """A guide that is an adapter of the pair's base; a reward model under one is marked by the same function."""
    pair = AlignedPair.from_pretrained(
        **checkpoints.model_args("reference_plus_lora"), guide=str(checkpoints.sft_adapter)
    )
    (member,), role = pair.guides.members, "guide1"
    assert member.role == role and pair.sides.adapters[role] == role
    before = pair.guides.accounts[0]["model"]["weights"]
    assert before == weights_mark(pair.sides, only=f".{role}.")
    layers = (one for one in pair.modules() if isinstance(getattr(one, "scaling", None), dict))
    layer = next(one for one in layers if role in one.scaling)
    layer.scaling["policy"] *= 2
    assert before == weights_mark(pair.sides, only=f".{role}.")
    layer.scaling[role] *= 2
    assert before != weights_mark(pair.sides, only=f".{role}.")


def test_lm_eval_decodes_with_a_guide_and_per_request(checkpoints, folders, tmp_path):
    task = {"task": "toy", "output_type": "generate_until", "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}, "doc_to_text": "{{q}}",
            "doc_to_target": "x", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "strategy": "guided"},
            "metric_list": [{"metric": "exact_match"}]}  # fmt: skip
    (tmp_path / "rows.jsonl").write_text('{"q": "hello there"}\n{"q": "a"}\n')
    words = checkpoints.model_args("reference_plus_lora") | {
        "guide": folders["small"],
        "answers_dir": str(tmp_path / "kept"),
    }
    with our_tasks_alone():
        run = simple_evaluate(
            model="aad", model_args={**words, "device": "cpu"}, tasks=[task], batch_size=2, bootstrap_iters=0,
            log_samples=True,
        )  # fmt: skip
    got = [one["resps"][0][0] for one in run["samples"]["toy"]]
    pair = AlignedPair.from_pretrained(**{k: v for k, v in words.items() if k != "answers_dir"})
    expected = answer(pair, ["hello there", "a"], strategy="guided", max_new_tokens=6, chat=False, stop=["\n"])
    assert got == expected
    assert run["config"]["aad"]["guides"][0]["kind"] == "tokens"


def test_an_explanation_and_a_trace_have_the_guides_column(checkpoints, folders, tmp_path):
    pair = AlignedPair.from_pretrained(**checkpoints.model_args("two_models"), guide=folders["small"])
    found = explain(
        pair, "hello", strategy="guided", guide_scale=2.0, max_new_tokens=6, chat=False, beside_greedy=False
    )
    ids = pair.tokenizer("hello")["input_ids"]
    with torch.no_grad():
        row = pair.sides.models()["guide1"](torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    first = found.steps[0]
    assert first.chosen.guide == pytest.approx(2 * row[first.chosen.id].item(), abs=1e-3)
    best = max(first.plausible, key=lambda token: token.log_policy + token.guide)
    assert best.id == first.chosen.id
    assert json.loads(json.dumps(found.to_json()))["steps"][0]["chosen"]["guide"] == pytest.approx(first.chosen.guide)
    assert len(compact_steps(found.steps)[0]) == 10
    writer = TraceWriter(tmp_path, "m", {})
    trace = AnswerTrace("k", "t", 0, "guided", "{}", "p", "a")
    writer.add(trace, found.steps)
    writer.flush()
    assert TraceFolder(tmp_path).steps(trace)[0].chosen.guide == pytest.approx(first.chosen.guide)


# ----------------------------------------------------------------------------------------------- reward models


def naive_args(policy, reward: LlamaForSequenceClassification, prompt: list[int], scale: float, k: int) -> list[int]:
    """ARGS within the plausible set: every candidate's whole text is read again."""
    tokens, read = list(prompt), model_logits(policy)
    for _ in range(STEPS):
        log_policy = torch.tensor(read(tokens)).log_softmax(-1)
        values, candidates = log_policy.topk(k)
        inside = candidates[values >= values[0] + torch.tensor(0.1).log()]
        with torch.no_grad():
            # The head on the last token, whatever id it has: transformers would look for the last that is no padding.
            hidden = [reward.model(torch.tensor([[*tokens, int(token)]])).last_hidden_state[0, -1] for token in inside]
        scores = log_policy[inside] + scale * torch.stack([reward.score(one)[0] for one in hidden])
        tokens.append(int(inside[scores.argmax()]))
        if tokens[-1] == EOS:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kind", ["two_models", "reference_plus_lora"])
def test_a_reward_model_is_asked_about_candidates_and_no_other_road_is_taken(checkpoints, folders, kind):
    words = checkpoints.model_args(kind)
    pair = AlignedPair.from_pretrained(**words, guide=f"reward:{folders['reward']}")
    prompts = random_prompts([5, 11, 4])
    with pair.sides.role("policy") as policy, torch.no_grad():
        naive = [naive_args(policy, reward_model(), prompt, 2.0, 6) for prompt in prompts]
    options = {"strategy": "guided", "guide_scale": 2.0, "guide_top_k": 6, "max_new_tokens": STEPS, "do_sample": False}
    before = pair.sides.passes["guide1"]
    for prompt, wanted in zip(prompts, naive, strict=True):
        ids = torch.tensor([prompt])
        assert pair.generate(ids, **options)[0, len(prompt) :].tolist() == wanted
        assert pair.generate(ids, **options, use_cache=False)[0, len(prompt) :].tolist() == wanted
    assert pair.sides.passes["guide1"] - before == 2 * sum(map(len, naive)), "one forward of it per token"
    ids, mask = left_pad(prompts)
    batch = pair.generate(ids, attention_mask=mask, pad_token_id=PAD, **options)[:, ids.shape[1] :].tolist()
    assert [row[: len(wanted)] for row, wanted in zip(batch, naive, strict=True)] == naive
    greedy = pair.generate(ids, attention_mask=mask, pad_token_id=PAD, **options | {"guide_scale": 0})
    assert torch.equal(
        greedy, pair.generate(ids, attention_mask=mask, pad_token_id=PAD, **options | {"strategy": "greedy"})
    )
    beams = options | {"num_beams": 2, "pad_token_id": PAD}
    found = pair.generate(ids, attention_mask=mask, **beams)
    assert torch.equal(found, pair.generate(ids, attention_mask=mask, **beams, use_cache=False))
    with pytest.raises(ConfigError, match="asked about one token at a time, prompt_lookup_num_tokens reads several"):
        pair.generate(ids[:1], prompt_lookup_num_tokens=3, **options)


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("words", "said"), [
    ({"guide_reference": "b"}, r"guide_reference='b' belongs to a guide"),
    ({"guide": "a+b", "guide_reference": "c"}, r"names 1 models for 2 guides: pass one for each"),
    ({"guide": "a++b"}, r"guide names a model, or several as A\+B, got 'a\+\+b'"),
    ({"guide": ""}, None),
    ({"guide": "./nowhere"}, r"guide: no folder './nowhere' here"),
    ({"guide": "reward:"}, r"names no model"),
    ({"guide": "reward:x", "guide_reference": "y"}, r"is a reward model, which has no reference"),
    ({"guide": "a", "guide_reference": "olmo2-1b"}, r"names a pair, expected one model"),
    ({"guide": "a", "guide_reference": "reward:x"}, r"a reward model is no reference"),
    ({"guide": 3}, r"guide names a model, or several as A\+B, got 3"),
], ids=str)  # fmt: skip
def test_wrong_words_are_one_line(words, said):
    parts = {"policy": "p", "reference": "r", **words}
    if said is None:
        assert resolve(**parts).guides == ()
        return
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(**parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [-1, "nan", "inf", 1e7, "a+b", [], "1+-1", True])
def test_a_scale_no_guide_can_have(scale):
    with pytest.raises(ConfigError, match="guide_scale must be a number from 0 to 1e"):
        PairArguments.parse(None, None, {"policy": "p", "guide": "g", "guide_scale": scale})


@pytest.mark.parametrize(("scale", "said"), [
    ("1+2", "guide_scale has 2 weights for 1 guide: pass one for each"),
    ((1.0, 2.0), "guide_scale has 2 weights for 1 guide: pass one for each"),
    (-1, "guide_scale must be a number from 0 to 1e"),
    (float("nan"), "guide_scale must be a number from 0 to 1e"),
    ("inf", "guide_scale must be a number from 0 to 1e"),
], ids=str)  # fmt: skip
def test_a_request_with_weights_that_its_guides_cannot_have_is_one_line(checkpoints, folders, aad, scale, said):
    words = {**checkpoints.model_args("two_models"), "guide": folders["small"]}
    pair = AlignedPair.from_pretrained(**words)
    lm = AADLM(**words, device="cpu", answers_dir="none")
    asked = {"strategy": "guided", "guide_scale": scale}
    request = Instance("generate_until", {}, ("a", {**asked, "until": [], "max_gen_toks": 2}), 0)
    for decode in (
        lambda: answer(pair, ["a"], max_new_tokens=2, **asked),
        lambda: lm.generate_until([request], disable_tqdm=True),
        lambda: explain(pair, "a", max_new_tokens=2, **asked),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            decode()
        assert "\n" not in str(caught.value)
    written = "+".join(map(str, scale)) if isinstance(scale, tuple) else str(scale)
    named = [word for name, value in words.items() for word in (f"--{name}", value)]
    for command in (["generate", "a"], ["explain", "a", "--strategy", "guided"]):
        found = aad(*command, *named, f"--guide-scale={written}").exception
        assert isinstance(found, ConfigError) and said.partition(" must")[0].partition(" has")[0] in str(found), found


@pytest.mark.parametrize(("guide", "kind", "said"), [
    ("other", VocabMismatch, r"has other token ids than the policy: a guide may have another size, not another vocabulary"),
    ("reward", ConfigError, r"is a sequence classifier, expected a language model .* pass guide=reward:"),
    ("classifier adapter", ConfigError, r"is a sequence classifier, expected a language model .* pass guide=reward:"),
    ("reward:adapter", ConfigError, r"is a language model, expected a sequence classifier with one score: pass guide="),
    ("reward:small", ConfigError, r"is a language model, expected a sequence classifier with one score: pass guide="),
    ("reward:nowhere/x/y", ConfigError, r"cannot load the reward model"),
])  # fmt: skip
def test_models_of_another_kind_are_one_line(checkpoints, folders, tmp_path, guide, kind, said):
    name = guide.removeprefix("reward:")
    path = {**folders, "adapter": str(checkpoints.adapter)}.get(name, name)
    if name == "classifier adapter":
        path = str(shutil.copytree(checkpoints.adapter, tmp_path / "classifier"))
        config = json.loads((tmp_path / "classifier/adapter_config.json").read_text())
        (tmp_path / "classifier/adapter_config.json").write_text(json.dumps({**config, "task_type": "SEQ_CLS"}))
    with pytest.raises(kind, match=said) as caught:
        AlignedPair.from_pretrained(
            **checkpoints.model_args("two_models"), guide=f"reward:{path}" if ":" in guide else path
        )
    assert isinstance(caught.value, AADError) and "\n" not in str(caught.value)


def test_weights_and_loglikelihoods_without_their_models_are_refused_before_loading(tmp_path):
    with pytest.raises(ConfigError, match="guide_scale has 2 weights for 1 guide: pass one for each"):
        PairArguments.parse(None, None, {"policy": "p", "reference": "r", "guide": "g", "guide_scale": "1+2"})
    with pytest.raises(ConfigError, match="strategy='guided' needs a guide"):
        PairArguments.parse(None, None, {"policy": "p", "reference": "r", "strategy": "guided"})
    with pytest.raises(ConfigError, match="loglikelihood='implicit_reward' reads a reference"):
        PairArguments.parse(None, None, {"policy": "p", "guide": "g", "loglikelihood": "implicit_reward"})


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_guides_adapter_of_a_tied_head_stays_out_of_the_embeddings(checkpoints, tmp_path, module):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(checkpoints.base)
    base.config.tie_word_embeddings = True
    base.tie_weights()
    base.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    tied = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    tuned = get_peft_model(tied, LoraConfig(target_modules=[module], r=2, task_type="CAUSAL_LM"))
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    tuned.save_pretrained(tmp_path / "adapter")
    pair = AlignedPair.from_pretrained(
        policy=str(checkpoints.policy), reference=str(checkpoints.reference), guide=str(tmp_path / "adapter")
    )
    ids = torch.tensor(random_prompts([7]))
    with torch.no_grad():
        wanted = tuned.eval()(input_ids=ids).logits
    torch.testing.assert_close(pair.sides.models()["guide1"](ids).logits, wanted, atol=1e-4, rtol=1e-4)


def test_an_adapter_of_another_base_guides_as_a_model_of_its_own(checkpoints, tmp_path):
    words = checkpoints.model_args("reference_plus_lora")
    shutil.copytree(checkpoints.base, tmp_path / "base")
    folder = Path(words["adapter"])
    shutil.copytree(folder, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(tmp_path / "base")})
    )
    pair = AlignedPair.from_pretrained(
        policy=str(checkpoints.policy), reference=str(checkpoints.reference), guide=str(tmp_path / "adapter")
    )
    own = AlignedPair.from_pretrained(**words)
    ids = torch.tensor(random_prompts([7]))
    with torch.no_grad(), own.sides.role("policy") as policy:
        wanted = policy(ids).logits
    torch.testing.assert_close(pair.sides.models()["guide1"](ids).logits, wanted, atol=1e-4, rtol=1e-4)
    assert describe(pair)["guides"][0]["model"]["base"] == str(tmp_path / "base")
