"""``aad serve`` with a guide: its names, its self-test, and answers that are those of transformers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.engine.serving import AAD, ENGINE, QUESTIONS, listening

pytestmark = [pytest.mark.engine, pytest.mark.grid]


def asked(address: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as reply:
        return json.loads(reply.read())


def test_a_served_guide_answers_as_on_transformers():
    from aad_plugin.pair.answering import answer
    from aad_plugin.pair.model import load_pair

    pair = load_pair("demo", guide="demo@1", dtype="float32")
    with listening([*AAD, "serve", "demo", "--guide", "demo@1", "--guide-scale", "0.5", *ENGINE]) as address:
        names = [model["id"] for model in asked(address, "models")["data"]]
        assert names == ["aad", "aad-greedy", "aad-reference", "aad-eft", "aad-guided"]
        for model, xargs, settings in (
            ("aad-guided", {}, {"strategy": "guided", "guide_scale": 0.5}),
            ("aad", {"aad_strategy": "guided", "aad_guide_scale": 2}, {"strategy": "guided", "guide_scale": 2}),
            ("aad", {}, {"strategy": "aad"}),
        ):
            messages = [{"role": "user", "content": QUESTIONS[0]}]
            body = {"model": model, "messages": messages, "max_tokens": 16, "vllm_xargs": xargs}
            found = asked(address, "chat/completions", body)["choices"][0]["message"]["content"]
            assert found == answer(pair, QUESTIONS[:1], max_new_tokens=16, **settings)[0], (model, xargs)
        with pytest.raises(urllib.error.HTTPError) as refused:
            xargs = {"aad_strategy": "guided", "aad_guide_scale": "1+2"}
            asked(address, "completions", {"model": "aad", "prompt": "x", "vllm_xargs": xargs})
        assert refused.value.code == 400 and "guide_scale has 2 weights for 1 guide" in refused.value.read().decode()
