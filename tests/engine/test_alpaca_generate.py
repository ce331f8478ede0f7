"""``aad alpaca-eval generate --engine vllm`` gives what ``--engine hf`` gives, in float32 on CPU."""

from __future__ import annotations

import pytest

from aad_plugin.alpaca import from_pair
from aad_plugin.alpaca.from_pair import FromPair
from tests.alpaca.made import instruction

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("two_threads")]


def test_both_engines_answer_alike(demo_model, monkeypatch, tmp_path):
    def source(engine):
        arguments = {"dtype": "float32", **({"device": "cpu"} if engine == "hf" else {})}
        return FromPair(
            "demo", engine=engine, model_args=arguments, settings={"strategy": "aad"}, max_new_tokens=12, batch_size=4,
            folder=tmp_path / engine,
        )  # fmt: skip

    texts = [instruction(number) for number in range(4)]
    ours = source("hf").answer(texts)
    served = source("vllm")
    monkeypatch.setattr(from_pair, "load_model", lambda *_: demo_model)
    assert served.answer(texts) == ours and all(answer.truncated for answer in ours)
    assert served.completions_kwargs["model_name"] == "demo" and from_pair.PLACEHOLDER in served.prompt
    # a blank answer's second request: vLLM's word for the least number of tokens
    kwargs, _, _ = demo_model.modify_gen_kwargs({"until": [], "max_gen_toks": 12, "min_new_tokens": 8})
    assert kwargs["min_tokens"] == 8 and "min_new_tokens" not in kwargs
