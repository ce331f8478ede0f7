"""``--model aad`` inside the real harness."""

from __future__ import annotations

import numpy as np
import pytest

from aad_plugin.errors import AADError, ConfigError
from aad_plugin.harness.arguments import PairArguments
from aad_plugin.pair.model import load_pair
from aad_plugin.sources.extrapolating import save_expo
from aad_plugin.sources.parts import resolve
from tests.harness.conftest import QUESTIONS, answers, loglikelihoods
from tests.pairs import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_python_apis(evaluate, checkpoints, kind):
    from aad_plugin.pair.answering import answer

    args = checkpoints.model_args(kind)
    results = evaluate("aad", {**args, "alpha": 0.3})
    assert answers(results) == answer(load_pair(**args, alpha=0.3), QUESTIONS, chat=False, max_new_tokens=12)


@pytest.mark.parametrize("kind", ["reference_plus_lora", "two_models"])
def test_greedy_is_exactly_what_model_hf_gives(evaluate, checkpoints, kind):
    args = checkpoints.model_args(kind)
    stock = {"pretrained": args.get("policy", args["reference"])} | (
        {"peft": args["adapter"]} if "adapter" in args else {}
    )
    ours = {**args, "strategy": "greedy"}
    assert answers(evaluate("aad", ours)) == answers(evaluate("hf", stock))
    scores, theirs = (loglikelihoods(evaluate(name, a, "toy_choose")) for name, a in (("aad", ours), ("hf", stock)))
    assert scores == theirs


def test_strategies_by_request_and_their_precedence(evaluate, checkpoints):
    args = checkpoints.model_args("two_models")
    by_request = evaluate("aad", args, gen_kwargs="strategy=eft,eft_scale=2.0")
    assert answers(by_request) == answers(evaluate("aad", {**args, "strategy": "eft", "eft_scale": 2.0}))
    both = evaluate("aad", {**args, "strategy": "greedy", "alpha": 0.5}, gen_kwargs="strategy=aad,alpha=0.05")
    assert answers(both) == answers(evaluate("aad", {**args, "alpha": 0.05}))
    assert answers(both) != answers(evaluate("aad", {**args, "strategy": "greedy"}))


def test_a_tasks_stop_strings_end_what_follows_the_thinking(evaluate, checkpoints):
    """Stock lm-eval stops at them within the thinking, and takes that for the answer."""
    args = checkpoints.model_args("two_models") | {"strategy": "greedy"}
    whole = answers(evaluate("aad", args))
    text = next(one for one in whole if len(set(one)) > 4)
    stop, end = text[0], next(letter for letter in text[1:] if letter != text[0])  # stops before the thinking ends
    found = evaluate("aad", {**args, "think_end_token": end}, gen_kwargs={"until": [stop]})
    wanted = [one.split(end)[-1].lstrip().split(stop)[0] for one in whole]
    assert answers(found) == wanted and wanted[whole.index(text)] != text.split(stop)[0]
    row = next(row for row in found["samples"]["toy_generate"] if row["doc_id"] == whole.index(text))
    behind = text.split(end)[-1]
    assert row["resps"][0][0].truncated is (stop not in behind)
    never = evaluate("aad", {**args, "think_end_token": "</think>"}, gen_kwargs={"until": [stop]})
    ends = [one["resps"][0][0].truncated for one in evaluate("aad", args)["samples"]["toy_generate"]]
    assert [one["resps"][0][0].truncated for one in never["samples"]["toy_generate"]] == ends, "no stop ends thinking"


def test_where_an_answer_behind_thinking_ends():
    from aad_plugin.pair.stopping import BehindThinking
    from tests.toys import byte_tokenizer

    tokenizer = byte_tokenizer()
    for mark in ("</t>", tokenizer.encode("#", add_special_tokens=False)[0]):
        end = mark if isinstance(mark, str) else "#"
        ids = tokenizer.encode(f"so. it{end} an answer. rest", add_special_tokens=False)
        behind = BehindThinking(mark, ["."], tokenizer)
        assert tokenizer.decode(ids[: behind.start(ids)]) == f"so. it{end}"
        assert tokenizer.decode(ids[: behind.length(ids)]) == f"so. it{end} an answer."
        assert behind.shown(ids) == "an answer"
        spaced = tokenizer.encode(f"so{end}\n\nan answer\n\nrest", add_special_tokens=False)
        lines = BehindThinking(mark, ["\n\n"], tokenizer)
        assert tokenizer.decode(spaced[: lines.length(spaced)]) == f"so{end}\n\nan answer\n\n"
        assert lines.shown(spaced) == "an answer"
        assert lines.length(spaced[:-6]) is None
        open_ids = tokenizer.encode("so. it goes on", add_special_tokens=False)
        assert behind.start(open_ids) is None and behind.length(open_ids) is None
        assert behind.shown(open_ids) == "so. it goes on"
        assert BehindThinking(mark, [], tokenizer).length(ids) is None


def test_a_mark_that_is_a_special_token_ends_thinking(checkpoints):
    from aad_plugin.harness.model import AADLM

    model = AADLM(**checkpoints.model_args("two_models"), device="cpu", think_end_token="</think>")
    assert model.think_end_token == "</think>"
    special = model.tokenizer.all_special_tokens[0]
    model = AADLM(**checkpoints.model_args("two_models"), device="cpu", think_end_token=special)
    assert model.think_end_token == model.tokenizer.convert_tokens_to_ids(special)


def test_a_mark_that_is_no_token_stays_a_text():
    from transformers import AutoTokenizer

    from aad_plugin.demo.assets import base_model_path
    from aad_plugin.harness.model import _id_of_hidden

    tokenizer = AutoTokenizer.from_pretrained(base_model_path())
    assert tokenizer.convert_tokens_to_ids("</think>") == tokenizer.unk_token_id  # which is a special token
    assert _id_of_hidden("</think>", tokenizer) == "</think>"
    tokenizer.add_tokens("</think>")
    assert _id_of_hidden("</think>", tokenizer) == "</think>", "a token that stands in the text"
    assert _id_of_hidden("<|im_end|>", tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_picker_sees_thinking_that_never_ended(checkpoints):
    from aad_plugin.pair.strategies import decode
    from aad_plugin.settings import DecodingSettings

    pair, texts = load_pair(**checkpoints.model_args("two_models"), dtype="float32"), []
    ids = pair.tokenizer("Question one", return_tensors="pt")["input_ids"]
    decode(pair, ids, ids.new_ones(ids.shape), DecodingSettings(strategy="best_of_2", picker="reward:anything"),
           picker=lambda prompts, given: texts.extend(given) or [len(one) for one in given], prompts=["p"],
           rendered=["user: Question one\nassistant:<think>\n"], max_new_tokens=8)  # fmt: skip
    assert texts and all(text.startswith("<think>\n") for text in texts)


def test_answers_under_a_template_that_opens_thinking_are_kept_by_another_key(checkpoints):
    from aad_plugin.harness.model import AADLM

    model = AADLM(**checkpoints.model_args("two_models"), device="cpu")
    given = {"until": [], "max_gen_toks": 4}
    plain, opened = (model._identity(text, given) for text in ("user: hi assistant:", "user: hi assistant:<think>\n"))
    from aad_plugin.harness.answer_store import request_key

    settings, sample, options = model._split(given)
    assert plain == request_key("user: hi assistant:", settings, sample, options)
    assert opened != request_key("user: hi assistant:<think>\n", settings, sample, options)


@pytest.mark.parametrize("picker", ["implicit", "reward:anything"])
def test_samples_are_picked_by_what_follows_their_thinking(checkpoints, monkeypatch, picker):
    from aad_plugin.pair import strategies
    from aad_plugin.pair.stopping import BehindThinking
    from aad_plugin.settings import DecodingSettings

    pair = load_pair(**checkpoints.model_args("two_models"), dtype="float32")
    ids = pair.tokenizer("Question one", return_tensors="pt")["input_ids"]
    mask, settings = ids.new_ones(ids.shape), DecodingSettings(strategy="best_of_6", picker=picker)
    (first,) = strategies.draw(pair, ids, mask, settings, range(1), max_new_tokens=40, eos_token_id=None)
    drawn = first.tokens[0, ids.shape[1] :].tolist()
    mark, stop = drawn[2], [pair.tokenizer.decode([drawn[9]])]
    behind = BehindThinking(mark, stop, pair.tokenizer)
    seen, texts, score = [], [], strategies._Run.rewards
    monkeypatch.setattr(strategies._Run, "rewards", lambda own, one, *rest: seen.append(one) or score(own, one, *rest))
    strategies.decode(
        pair, ids, mask, settings, stop=stop, thinking_end=mark, prompts=["p"], max_new_tokens=40, eos_token_id=None,
        picker=lambda prompts, given: texts.extend(given) or [len(one) for one in given],
    )  # fmt: skip
    rows = [one.tokens[0, ids.shape[1] :].tolist() for one in seen]
    ends = [behind.length(row) for row in rows]
    assert any(ends) and all(int(one.lengths[0]) == (end or 40) for end, one in zip(ends, seen, strict=True))
    if picker != "implicit":
        assert texts == [behind.shown(row[: int(one.lengths[0])]) for row, one in zip(rows, seen, strict=True)]


@pytest.mark.parametrize("strategy", ["sample", "best_of_3"])
def test_batch_size_changes_no_sampled_answer(evaluate, checkpoints, strategy):
    args = {**checkpoints.model_args("reference_plus_lora"), "strategy": strategy}
    assert answers(evaluate("aad", args, batch_size=1)) == answers(evaluate("aad", args, batch_size=5))


def test_automatic_batch_size_on_cpu(evaluate, checkpoints):
    args = checkpoints.model_args("two_models")
    assert answers(evaluate("aad", args, batch_size="auto")) == answers(evaluate("aad", args))


def test_implicit_reward_is_policy_minus_reference(evaluate, checkpoints):
    args = checkpoints.model_args("two_adapters")
    found = {
        choice: np.array(loglikelihoods(evaluate("aad", {**args, "loglikelihood": choice}, "toy_choose")))
        for choice in ("policy", "reference", "implicit_reward")
    }
    assert np.allclose(found["implicit_reward"], found["policy"] - found["reference"], atol=1e-5)
    assert not np.allclose(found["policy"], found["reference"], atol=1e-2)


@pytest.mark.parametrize("kind", ["two_models", "reference_plus_lora"])
def test_choices_of_expo_are_scored_by_its_one_model(evaluate, checkpoints, kind, tmp_path):
    args = checkpoints.model_args(kind)
    save_expo(resolve(**args), 2.0, tmp_path / "expo", whole=True)
    saved = {"policy": str(tmp_path / "expo"), "reference": str(tmp_path / "expo"), "strategy": "greedy"}
    wanted = loglikelihoods(evaluate("aad", saved, "toy_choose"))
    expo = {**args, "strategy": "expo", "expo_scale": 2.0}
    assert np.allclose(loglikelihoods(evaluate("aad", expo, "toy_choose")), wanted, atol=1e-4)
    policy = loglikelihoods(evaluate("aad", {**expo, "loglikelihood": "policy"}, "toy_choose"))
    assert not np.allclose(policy, wanted, atol=1e-2)


def test_one_cache_path_serves_every_setting_its_own_answers(evaluate, checkpoints, tmp_path):
    args, cache = checkpoints.model_args("two_models"), str(tmp_path / "cache")
    fresh = {alpha: answers(evaluate("aad", {**args, "alpha": alpha})) for alpha in (0.1, 1.0)}
    assert fresh[0.1] != fresh[1.0]
    for alpha in (0.1, 1.0, 0.1):
        assert answers(evaluate("aad", {**args, "alpha": alpha}, use_cache=cache)) == fresh[alpha]
    scores = {
        c: loglikelihoods(evaluate("aad", {**args, "loglikelihood": c}, "toy_choose")) for c in ("policy", "reference")
    }
    for choice in ("policy", "reference", "policy"):
        run = evaluate("aad", {**args, "loglikelihood": choice}, "toy_choose", use_cache=cache)
        assert loglikelihoods(run) == scores[choice]


def test_a_cached_run_decodes_nothing(evaluate, checkpoints, tmp_path, monkeypatch):
    from aad_plugin.harness import model

    args, cache = checkpoints.model_args("two_models"), str(tmp_path / "cache")
    first = answers(evaluate("aad", args, use_cache=cache))
    monkeypatch.setattr(model, "decode", None)
    assert answers(evaluate("aad", args, use_cache=cache)) == first


def test_sampled_answers_are_not_cached(evaluate, checkpoints, tmp_path):
    """lm-eval's key cannot tell repeats apart: cached, they would all become the last one."""
    import sqlite3

    cache = str(tmp_path / "cache")
    args = checkpoints.model_args("two_models")
    evaluate("aad", args, use_cache=cache, gen_kwargs="strategy=sample")
    evaluate("aad", args, use_cache=cache, gen_kwargs="strategy=greedy")
    (file,) = tmp_path.glob("cache*.db")
    with sqlite3.connect(file) as database:
        (table,) = [name for (name,) in database.execute("select name from sqlite_master") if name.startswith("aad4_")]
        assert database.execute(f'select count(*) from "{table}"').fetchone() == (len(QUESTIONS),)


def test_repeats_of_a_sampled_request_differ(evaluate, checkpoints, task_folder):
    from aad_plugin.harness.model import AADLM
    from aad_plugin.harness.task_host import generate_request

    lm = AADLM(**checkpoints.model_args("two_models"), strategy="sample", device="cpu", batch_size=4)
    request = generate_request(QUESTIONS[0], {"until": [], "max_gen_toks": 12})
    first, second, third = lm.generate_until([request] * 3)
    assert len({first, second, third}) == 3
    assert lm.generate_until([request]) == [first]
    assert request.args[1] == {"until": [], "max_gen_toks": 12}, "the request itself is left as it was"


def test_the_python_api_makes_the_harness_batches(checkpoints, monkeypatch):
    """In 16 bit the prompts beside a prompt can change its tokens: the two ways must not differ in them."""
    from aad_plugin.harness.model import AADLM
    from aad_plugin.harness.task_host import generate_request
    from aad_plugin.pair.answering import answer
    from aad_plugin.pair.model import AlignedPair

    seen: list[list[list[int]]] = []
    generate = AlignedPair.generate

    def noting(pair, *args, **options):
        seen.append((args[0] if args else options["input_ids"]).tolist())
        return generate(pair, *args, **options)

    monkeypatch.setattr(AlignedPair, "generate", noting)
    prompts = ["dcb", "abc", "cab", "a longer one", "b", "bca", "another one", "acb"]
    lm = AADLM(**checkpoints.model_args("two_models"), device="cpu", batch_size=3)
    asked = [generate_request(prompt, {"until": [], "max_gen_toks": 2}) for prompt in prompts]
    theirs = lm.generate_until(asked)
    batches = list(seen)
    seen.clear()
    assert answer(lm.model, prompts, chat=False, batch_size=3, max_new_tokens=2) == theirs
    assert seen == batches and len(batches) == 3


def test_a_pair_in_memory_can_be_evaluated(evaluate, checkpoints):
    pair = load_pair(**checkpoints.model_args("two_adapters"))
    ours = evaluate("aad", {"pretrained": pair, "alpha": 0.3})
    assert answers(ours) == answers(evaluate("aad", {**checkpoints.model_args("two_adapters"), "alpha": 0.3}))


def test_long_prompts_are_truncated_as_hflm_does_and_counted(evaluate, checkpoints):
    args = {**checkpoints.model_args("two_models"), "max_length": 40}
    results = evaluate("aad", args)
    lost = sum(len(q) > 40 - 12 for q in QUESTIONS)
    assert results["config"]["aad"]["truncated_prompts"] == lost > 0


def test_results_say_how_they_were_made(evaluate, checkpoints):
    info = evaluate("aad", {**checkpoints.model_args("two_models"), "alpha": 0.3}, limit=1)["config"]["aad"]
    assert info["settings"]["alpha"] == 0.3
    assert info["dtype"] == {"policy": "torch.float32", "reference": "torch.float32"}
    assert info["parts"]["reference"] == str(checkpoints.reference)
    assert {"lm_eval", "torch", "transformers", "aad_plugin"} <= set(info["versions"])


def test_a_draft_is_in_the_results_and_changes_no_answer(evaluate, checkpoints):
    arguments = checkpoints.model_args("two_models")
    one = dict(limit=2, batch_size=1)
    plain, drafted = (evaluate("aad", {**arguments, **d}, **one) for d in ({}, {"draft_model": str(checkpoints.base)}))
    assert drafted["config"]["aad"]["draft"]["model"] == str(checkpoints.base) and "draft" not in plain["config"]["aad"]
    assert answers(plain) == answers(drafted)
    with pytest.raises(ConfigError, match="one prompt at a time, got batch_size=2"):
        PairArguments.parse(None, None, {**arguments, "draft_model": "m", "batch_size": 2})
    with pytest.raises(ConfigError, match="draws its tokens"):
        evaluate("aad", {**arguments, "draft_model": str(checkpoints.base)}, gen_kwargs="strategy=sample", **one)
    for more, said in (({"trace": "t"}, "a trace shows one token"), ({}, "cannot load draft_model='m'")):
        with pytest.raises(ConfigError, match=said):
            evaluate("aad", {**arguments, "draft_model": "m", **more}, **one)


@pytest.mark.parametrize(
    ("extra", "gen_kwargs", "message"),
    [
        ({"alhpa": 0.2}, None, "unknown model_arg 'alhpa' .did you mean 'alpha'"),
        ({"strategy": "greedi"}, None, "did you mean 'greedy'"),
        ({"loglikelihood": "polcy"}, None, "loglikelihood must be one of policy, reference, implicit_reward"),
        ({"peft": "x"}, None, "a pair takes reference=…,adapter=…"),
        ({"delta": "x"}, None, "delta=… adds to the weights of one model, and a pair has two"),
        ({}, "strategy=aad,alfa=0.3", "unknown gen_kwarg 'alfa' .did you mean 'alpha'"),
        ({}, "strategy=aad,alpha=3", r"alpha must be a number in \(0, 1\], got 3"),
        ({}, "repetition_penalty=1.3", "repetition_penalty=1.3 rescales logits"),
        ({"draft_model": "m"}, None, "one prompt at a time, got batch_size=4"),
        ({"n": 0}, None, "n must be a whole number of at least 1"),
        ({"strategy": ["aad"]}, None, "strategy must be one of"),
        ({"picker": 5}, None, "picker must be 'implicit' or 'reward:<model>', got 5"),
        ({"dtype": "bf16"}, None, "dtype must be 'auto' or a torch dtype"),
        ({"tokenizer": "/nowhere"}, None, "no tokenizer at '/nowhere'"),
        ({}, "strategy=sample,temperature=-1", "temperature must be a number of at least 0, got -1"),
        ({}, "strategy=sample,top_p=0", "top_p must be a number in"),
        ({}, "strategy=sample,top_k=3", "top_k=3 has no effect on strategy 'sample'"),
        ({}, "max_gen_toks=0", "max_gen_toks must be a number of at least 1, got 0"),
    ],
)
def test_bad_arguments(evaluate, checkpoints, extra, gen_kwargs, message):
    with pytest.raises(ConfigError, match=message):
        evaluate("aad", {**checkpoints.model_args("two_models"), **extra}, gen_kwargs=gen_kwargs)


def test_options_that_the_host_sets_itself_may_be_given(evaluate, checkpoints):
    args = checkpoints.model_args("two_models")
    plain = evaluate("aad", args)
    given = evaluate("aad", {**args, "answers_dir": "none"}, gen_kwargs="pad_token_id=257")
    assert answers(plain) == answers(given)


def test_an_empty_prompt(checkpoints):
    from aad_plugin.harness.model import AADLM
    from aad_plugin.harness.task_host import generate_request

    lm = AADLM(**checkpoints.model_args("two_models"), device="cpu", batch_size=2)
    requests = [generate_request(text, {"until": [], "max_gen_toks": 4}, number=i) for i, text in enumerate(["a", ""])]
    with pytest.raises(AADError, match="a prompt is empty"):
        lm.generate_until(requests)
