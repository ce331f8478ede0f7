"""ExPO on vLLM: one plain engine of extrapolated weights, which answers as transformers does and by no other strategy."""

from __future__ import annotations

import numpy as np
import pytest

from aad_plugin.errors import ConfigError
from tests.engine.conftest import ENGINE

pytestmark = [pytest.mark.engine, pytest.mark.grid, pytest.mark.usefixtures("two_threads")]

QUESTIONS = ["How do I keep bread fresh?", "Why is the sky blue?", "Write a short thank-you note."]


def test_expo_is_a_policy_of_its_own():
    from aad_plugin.harness.asking import ask, load_model, render
    from aad_plugin.pair.answering import answer
    from aad_plugin.pair.model import load_pair

    wanted = answer(
        load_pair("demo", dtype="float32"), QUESTIONS, strategy="expo", expo_scale=1.0, max_new_tokens=16, batch_size=1
    )
    held = {"pair": "demo", "strategy": "expo", "expo_scale": 1.0, "answers_dir": "none", **ENGINE}
    model = load_model("vllm", held)
    contexts = [render(model, question) for question in QUESTIONS]
    asked = {"until": [], "do_sample": False, "max_gen_toks": 16}
    found = ask(model, contexts, asked, progress=False)
    assert [one.answer.strip() for one in found] == [text.strip() for text in wanted]
    assert model.model_account()["expo_scale"] == 1.0
    with pytest.raises(ConfigError, match="on vLLM expo is a model of its own"):
        ask(model, contexts, {**asked, "strategy": "aad"}, progress=False)
    with pytest.raises(ConfigError, match="this engine holds expo_scale=1, got a request for 2"):
        ask(model, contexts, {**asked, "expo_scale": 2.0}, progress=False)
    with pytest.raises(ConfigError, match="loglikelihood=policy is the policy's"):
        model._scores("policy", [])
    choices = [
        ((context, text), *model._encode_pair(context, text)) for context, text in zip(contexts, wanted, strict=True)
    ]
    same = {name: held[name] for name in ("pair", "strategy", "expo_scale", "answers_dir", "dtype")}
    other = load_model("hf", {**same, "device": "cpu"})
    scores = [[score for score, _ in one._loglikelihood_tokens(choices)] for one in (model, other)]
    assert np.allclose(*scores, atol=5e-3)
