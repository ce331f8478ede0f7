"""The demo pair, real weights, inside vLLM: the naive loop's tokens; answers that later stages constrain."""

from __future__ import annotations

import json

import pytest

from aad_plugin.pair.model import load_pair
from tests.demo.test_pair import PROMPTS, encode, naive_run
from tests.engine.test_composite import differences

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("two_threads")]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@pytest.fixture
def llm(demo_model):
    return demo_model.model


def generate(llm, prompts, **parameters):
    from vllm import SamplingParams, TokensPrompt

    chosen = SamplingParams(**{"temperature": 0, "max_tokens": 32, **parameters})
    outputs = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], chosen, use_tqdm=False)
    return [output.outputs[0] for output in outputs]


def test_tokens_are_the_naive_loops(llm):
    pair = load_pair("demo", dtype="float32")
    prompts = encode(pair, PROMPTS[:4])
    runs = [naive_run(pair, prompt, 32) for prompt in prompts]
    found = [list(output.token_ids) for output in generate(llm, prompts)]
    equal, excused, wrong = differences(found, runs)
    print(f"demo pair on vLLM: {equal} steps equal, {excused} excused, {wrong} wrong")
    assert wrong == 0


def test_a_hundred_constrained_answers_are_all_valid(llm):
    from vllm.sampling_params import StructuredOutputsParams

    tokenizer = llm.get_tokenizer()
    chats = [[{"role": "user", "content": f"Is {number} an even number? Name a city, too."}] for number in range(100)]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    before = sum(llm.collective_rpc("aad_emptied"))
    chosen = generate(llm, prompts, structured_outputs=StructuredOutputsParams(choice=["even", "odd"]))
    assert {output.text for output in chosen} <= {"even", "odd"}
    objects = generate(llm, prompts, max_tokens=60, structured_outputs=StructuredOutputsParams(json=SCHEMA))
    for output in objects:
        if output.finish_reason == "stop":
            assert set(json.loads(output.text)) == {"city", "people"}
    assert sum(output.finish_reason == "stop" for output in objects) >= 95
    emptied = sum(llm.collective_rpc("aad_emptied")) - before
    print(f"plausible set emptied at {emptied} of {sum(len(o.token_ids) for o in [*chosen, *objects])} steps")
    assert emptied > 0
    the = tokenizer(" the", add_special_tokens=False)["input_ids"][0]
    for output in generate(llm, prompts, min_tokens=24, bad_words=["the"], logit_bias={the: -100.0}):
        assert len(output.token_ids) >= 24 and the not in output.token_ids
