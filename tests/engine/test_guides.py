"""Guides inside vLLM against a naive loop that reads every model's whole text again at each step."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from aad_plugin.engine.options import engine_pair
from aad_plugin.errors import ConfigError, VocabMismatch
from aad_plugin.harness.arguments import PairArguments
from aad_plugin.settings import DecodingSettings
from aad_plugin.sources.parts import resolve
from tests.engine import test_composite
from tests.engine.pairs import disk_model, lora_pair
from tests.engine.test_composite import NGRAM, differences
from tests.pair.test_guide_loading import reward_model
from tests.pair.test_guides import naive_guided
from tests.toys import EOS, Logits, byte_tokenizer, naive_aad, random_prompts

pytestmark = pytest.mark.engine

STEPS = 32
LENGTHS = [3, 17, 9, 24, 12, 5, 30, 20]
SCALES = (1.5, 0.5)
FORMS = ("checkpoints", "one base", "beside", "alone")


@dataclass
class Form:
    """How a pair and its two guides are named, and what the naive loop reads."""

    words: dict[str, str]
    policy: Logits
    reference: Logits
    guides: list[tuple[Logits, Logits | None]]
    settings: DecodingSettings = field(
        default_factory=lambda: DecodingSettings(strategy="guided", guide_scale=SCALES, alpha=0.1)
    )

    def runs(self, prompts: list[list[int]], scales: tuple[float, ...] = SCALES) -> list[Any]:
        """The naive loop's answers."""
        guides = [(*models, scale) for models, scale in zip(self.guides, scales, strict=True)]
        return [naive_guided(self.policy, guides, prompt, 0.1, STEPS) for prompt in prompts]


@pytest.fixture(scope="module")
def forms(toy_pairs, tmp_path_factory) -> dict[str, Form]:
    root = tmp_path_factory.mktemp("guides")
    small, other = disk_model(root / "small", "small llama", 7), disk_model(root / "other", "small qwen3", 8)
    pair = toy_pairs["llama"]
    models = {"policy": str(pair.model), "reference": pair.rest["reference"]}
    guide = {"guide": f"{root / 'small'}+{root / 'other'}", "guide_reference": f"{root / 'other'}+none"}
    two = lora_pair(root / "base", "llama", ("adapter", "guide1"))
    base, first = str(two.model), two.rest["guide1"]
    again = lora_pair(root / "again", "llama", ("adapter", "guide1", "guide2"))
    adapters = {"reference": base, "adapter": two.rest["adapter"]}
    three = {"reference": str(again.model), "adapter": again.rest["adapter"]}
    return {
        "checkpoints": Form(
            {**models, **guide}, pair.policy_logits, pair.reference_logits, [(small, other), (other, None)]
        ),
        "one base": Form(
            {**three, "guide": f"{again.rest['guide1']}+{again.rest['guide2']}", "guide_reference": f"{again.model}+none"},
            again.policy_logits, again.reference_logits,
            [(again.logits["guide1"], again.reference_logits), (again.logits["guide2"], None)],
        ),
        "beside": Form(
            {**adapters, "guide": f"{first}+{root / 'small'}", "guide_reference": f"{base}+{root / 'other'}"},
            two.policy_logits, two.reference_logits, [(two.logits["guide1"], two.reference_logits), (small, other)],
        ),
        "alone": Form(
            {"policy": models["policy"], **guide}, pair.policy_logits, pair.policy_logits, [(small, other), (other, None)]
        ),
    }  # fmt: skip


def engine(form: Form, **options: Any) -> Any:
    """A vLLM engine of one form, in this process."""
    from vllm import LLM

    pair = engine_pair(resolve(**form.words), form.settings, dtype="float32", merge_adapters=options.pop("merge", None))
    small = dict(dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=8, seed=0)
    alone = str(int(options.pop("own_process", False)))
    with mock.patch.dict(os.environ, {"VLLM_ENABLE_V1_MULTIPROCESSING": alone}):
        llm = LLM(pair.model, tokenizer=pair.tokenizer, **{**small, **pair.arguments, **options})
    assert all(llm.collective_rpc("aad_attach"))
    return llm


@pytest.fixture
def engines(forms, toy_engines):
    """Start engines one after the other: there is one at a time in a process."""
    toy_engines.close()

    def start(form: str, **options: Any) -> Any:
        gc.collect()
        return engine(forms[form], **options)

    yield start
    gc.collect()


def decode(llm: Any, prompts: list[list[int]], **parameters: Any) -> list[list[int]]:
    return test_composite.decode(llm, prompts, max_tokens=STEPS, **parameters)


def check(llm: Any, form: Form) -> None:
    """Alone, in a batch, with the weights of a request, and among rows of other strategies."""
    prompts = random_prompts(LENGTHS)
    runs = form.runs(prompts)
    assert sum(run.departures for run in runs) > 20, "the guides have to change something"
    counts = [differences(decode(llm, prompts), runs), differences(decode(llm, prompts[:1]), runs[:1])]
    asked = {"aad_strategy": "guided", "aad_guide_scale": "0.25+2.0"}
    counts.append(differences(decode(llm, prompts, extra_args=asked), form.runs(prompts, (0.25, 2.0))))
    nothing = decode(llm, prompts, extra_args={"aad_strategy": "guided", "aad_guide_scale": 0})
    greedy = [naive_aad(form.policy, form.policy, prompt, STEPS, 1.0, EOS) for prompt in prompts]
    counts.append(differences(nothing, greedy))
    counts += _mixed(llm, form, prompts, runs)
    print(f"{sum(equal for equal, _, _ in counts)} steps equal, {sum(excused for _, excused, _ in counts)} excused")
    assert not any(wrong for _, _, wrong in counts), counts
    assert sum(excused for _, excused, _ in counts) <= 2, counts


def _mixed(llm: Any, form: Form, prompts: list[list[int]], runs: list[Any]) -> list[tuple[int, int, int]]:
    from vllm import SamplingParams, TokensPrompt

    kinds = ["guided", "greedy", "aad"] if form.policy is not form.reference else ["guided", "greedy"]
    asked = [kinds[row % len(kinds)] for row in range(len(prompts))]
    parameters = [SamplingParams(temperature=0, max_tokens=STEPS, extra_args={"aad_strategy": one}) for one in asked]
    outputs = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], parameters, use_tqdm=False)
    found = []
    for strategy, prompt, run, output in zip(asked, prompts, runs, outputs, strict=True):
        if strategy != "guided":
            run = naive_aad(form.policy, form.reference, prompt, STEPS, 1.0 if strategy == "greedy" else 0.1, EOS)
        found.append(differences([list(output.outputs[0].token_ids)], [run]))
    return found


QUICK = ["checkpoints", "one base"]


@pytest.mark.parametrize(
    "form", [*QUICK, *(pytest.param(one, marks=pytest.mark.grid) for one in FORMS if one not in QUICK)]
)
def test_tokens_are_the_naive_loops(engines, forms, form):
    check(engines(form), forms[form])


CHUNKED = dict(enable_chunked_prefill=True, max_num_batched_tokens=24)
CROWDED = dict(num_gpu_blocks_override=12)
OPTIONS = {"no prefix caching": dict(enable_prefix_caching=False), "chunked": CHUNKED, "crowded": CROWDED,
           "compiled": dict(enforce_eager=False)}  # fmt: skip


@pytest.mark.grid
@pytest.mark.parametrize("form", ["checkpoints", "one base"])
@pytest.mark.parametrize("options", OPTIONS)
def test_tokens_are_the_naive_loops_however_the_engine_works(engines, forms, form, options):
    check(engines(form, **OPTIONS[options]), forms[form])


@pytest.mark.grid
@pytest.mark.parametrize("form", ["one base", "beside"])
def test_merged_adapters_guide_as_those_that_share_their_base(engines, forms, form):
    check(engines(form, merge=True), forms[form])


@pytest.mark.grid
@pytest.mark.parametrize("form", FORMS)
def test_whole_rows_choose_the_same_tokens(engines, forms, monkeypatch, form):
    """As on a GPU, and where the head is split over ranks: no candidates are listed."""
    monkeypatch.setattr("aad_plugin.engine.heads.current_platform", SimpleNamespace(is_cpu=lambda: False))
    check(engines(form), forms[form])


@pytest.mark.grid
@pytest.mark.parametrize("form", ["checkpoints", "one base"])
def test_two_tensor_parallel_ranks_choose_the_same_tokens(engines, forms, monkeypatch, form):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # two ranks share this machine's cores
    check(engines(form, tensor_parallel_size=2), forms[form])


@pytest.mark.grid
@pytest.mark.parametrize("form", ["checkpoints", "one base"])
def test_drafts_change_no_token(engines, forms, form):
    check(engines(form, own_process=True, speculative_config=NGRAM), forms[form])


def test_the_engine_refuses_what_it_does_not_hold(forms, tmp_path):
    words, settings = forms["checkpoints"].words, DecodingSettings(strategy="guided")
    disk_model(tmp_path / "other", "small llama", 3)
    more = byte_tokenizer()
    more.add_tokens(["<new>"])
    more.save_pretrained(tmp_path / "other")
    reward_model().save_pretrained(tmp_path / "reward")
    byte_tokenizer().save_pretrained(tmp_path / "reward")
    for guide, kind, said in (
        ("reward:x", ConfigError, "guide='reward:x' is asked about each candidate"),
        (None, ConfigError, "strategy='guided' needs a guide"),
        (str(tmp_path / "other"), VocabMismatch, "has other token ids than the policy"),
        (str(tmp_path / "reward"), ConfigError, "is a sequence classifier, expected a language model"),
    ):
        with pytest.raises(kind, match=said) as caught:
            engine_pair(resolve(**{**words, "guide": guide, "guide_reference": None}), settings)
        assert "\n" not in str(caught.value)


@pytest.mark.grid
def test_lm_eval_names_its_guides_and_keeps_answers_apart(forms, tmp_path, toy_engines):
    """``--model aad-vllm``: the self-test, a request's strategy, results, and the key of kept answers."""
    from lm_eval.api.instance import Instance

    from aad_plugin.harness.vllm_model import AADVLLM
    from aad_plugin.pair.answering import answer
    from aad_plugin.pair.model import load_pair

    toy_engines.close()
    words = forms["checkpoints"].words
    small = dict(dtype="float32", enforce_eager=True, max_model_len=512, max_num_seqs=8, answers_dir=str(tmp_path))
    with mock.patch.dict(os.environ, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}):
        model = AADVLLM(**words, guide_scale="1.5+0.5", **small)
    assert model.proof is not None and model.proof.status == "proven"
    said = model.get_model_info()["aad"]
    assert [guide["guide"] for guide in said["guides"]] == words["guide"].split("+")
    first = said["guides"][0]
    assert len(first["model"]["weights"]) == 16 and first["model"]["weights"] != first["reference"]["weights"]
    prompts = ["Say hello to the quick brown fox.", "Why?"]
    pair = load_pair(**words, dtype="float32", guide_scale="1.5+0.5")
    for asked in ({"strategy": "guided"}, {"strategy": "guided", "guide_scale": "0.25+2.0"}, {"strategy": "aad"}):
        requests = [
            Instance("generate_until", {}, (prompt, {**asked, "max_gen_toks": 8, "until": []}), 0) for prompt in prompts
        ]
        found = model.generate_until(requests, disable_tqdm=True)
        assert found == answer(pair, prompts, chat=False, max_new_tokens=8, **asked), asked
    keys = {model._key("x", {"strategy": "guided"}), model._key("x", {"strategy": "guided", "guide_scale": "2+1"})}
    assert len(keys) == 2
    before = model.cache_fingerprint()
    model._arguments = PairArguments.parse(
        None, None, {**words, "guide": words["guide"].split("+")[0] + "+" + words["policy"]}
    )
    assert model.cache_fingerprint() != before
    with pytest.raises(ConfigError, match="guide_scale has 3 weights for 2 guides"):
        asked = {"strategy": "guided", "guide_scale": "1+1+1", "max_gen_toks": 4, "until": []}
        model.generate_until([Instance("generate_until", {}, ("x", asked), 0)], disable_tqdm=True)
