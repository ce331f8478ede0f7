"""What a served pair refuses before anything is decoded: endpoints, ids, log-probabilities that would be another's."""

from __future__ import annotations

import asyncio
import json

import pytest

from aad_plugin.engine.batch import prepare_batch
from aad_plugin.engine.command_line import has_drafts
from aad_plugin.engine.middleware import SHARED_IDS, AADMiddleware, check_request
from aad_plugin.engine.options import EnginePair, with_users
from aad_plugin.engine.requests import Held
from aad_plugin.engine.server import engine_arguments
from aad_plugin.errors import ConfigError


def post(path: str, body: dict, root_path: str = "", key: str | None = None) -> tuple[int, dict | None]:
    """Status and what the server behind the middleware was given, None where it was not asked."""
    given: list[dict] = []
    status: list[int] = []

    async def app(scope, receive, send):
        given.append(json.loads((await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message):
        if "status" in message:
            status.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": path, "root_path": root_path, "headers": []}
    if key is not None:
        scope["headers"] = [(b"authorization", f"Bearer {key}".encode())]
    asyncio.run(AADMiddleware(app if key is None else Within(Guard(app)))(scope, receive, send))
    return status[0], given[0] if given else None


class Within:
    """Any middleware between ours and vLLM's."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


class Guard(Within):
    """vLLM's check of an API key, in its terms."""

    def verify_token(self, headers):
        return headers.get("Authorization") == "Bearer right"

    async def __call__(self, scope, receive, send):
        if self.verify_token({"Authorization": dict(scope["headers"])[b"authorization"].decode()}):
            await self.app(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 401, "headers": []})


@pytest.mark.parametrize("xargs", [{"aad_alpha": [0.1]}, {"aad_strategy": "guess"}])
def test_a_request_without_the_key_hears_nothing_but_that(xargs):
    body = {"model": "aad", "prompt": "x", "vllm_xargs": xargs}
    assert post("/v1/completions", body, key="wrong") == (401, None)
    assert post("/v1/completions", body, key="right") == (400, None)
    assert post("/v1/messages", body, key="wrong") == (401, None)
    assert post("/v1/completions", {"model": "aad", "prompt": "x"}, key="right")[0] == 200


def test_a_list_for_a_setting_says_what_was_expected():
    with pytest.raises(ConfigError, match=r"aad_alpha.*number.*\[0\.1\]"):
        check_request({"model": "aad", "prompt": "x", "vllm_xargs": {"aad_alpha": [0.1]}})


@pytest.mark.parametrize(
    "path",
    ["/v1/messages", "/v1/responses", "/v1/chat/completions/batch", "/v1/embeddings", "/generate", "/v2/anything"],
)
def test_an_endpoint_that_would_forget_the_strategy_is_refused(path):
    assert post(path, {"model": "aad-greedy"}) == (400, None)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/completions/", "/pair/v1/completions"])
def test_known_endpoints_get_the_strategy(path):
    status, given = post(path, {"model": "aad-greedy", "prompt": "x"}, "/pair" if path.startswith("/pair") else "")
    assert status == 200 and given is not None and given["vllm_xargs"] == {"aad_strategy": "greedy"}


def test_what_decodes_nothing_passes():
    assert post("/tokenize", {"prompt": "x"}) == (200, {"prompt": "x"})


@pytest.mark.parametrize("model", ["aad-greedy", "aad-reference", "aad"])
def test_log_probabilities_of_a_prompt_are_refused_under_every_name(model):
    """What lm-eval's local-completions sends for multiple choice would be scores under any of the names."""
    with pytest.raises(ConfigError, match="log"):
        check_request({"model": model, "prompt": "x", "echo": True, "logprobs": 1})
    assert check_request({"model": "aad-greedy", "prompt": "x", "logprobs": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", [65, 350, 67]), ("prompt", [[65], [66, 260]]), ("allowed_token_ids", [259, 300]),
        ("logit_bias", {"300": 5}), ("stop_token_ids", [-1]),
    ],
)  # fmt: skip
def test_ids_that_one_model_does_not_know(monkeypatch, field, value):
    monkeypatch.setenv(SHARED_IDS, "260")
    assert post("/v1/completions", {"model": "aad", field: value}) == (400, None)
    monkeypatch.setenv(SHARED_IDS, "351")
    body = {"model": "aad", field: value}
    assert post("/v1/completions", body)[0] == (400 if field == "stop_token_ids" else 200)


def test_a_file_of_requests_is_held_to_the_same(tmp_path):
    rows = [
        {"custom_id": "a", "url": "/v1/chat/completions", "body": {"model": "aad", "messages": []}},
        {"custom_id": "b", "url": "/v1/responses", "body": {"model": "aad", "input": "x"}},
        {"custom_id": "c", "url": "/v1/chat/completions", "body": {"model": "aad", "stop_token_ids": [300]}},
        {"custom_id": "d", "url": "/v1/completions", "body": {"model": "aad", "prompt": "x"}},
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    lines, refused = prepare_batch(path, 260)
    assert [json.loads(line)["custom_id"] for line in lines] == ["a"]
    assert [row["custom_id"] for row in refused] == ["b", "c", "d"]
    assert "all that vLLM's batch runner answers" in refused[2]["response"]["body"]["error"]["message"]


@pytest.mark.parametrize("body", [{"stop_token_ids": 7}, {"allowed_token_ids": 5}, {"logit_bias": 5}])
def test_values_of_another_type_are_left_to_vllms_own_refusal(body):
    assert check_request({"model": "aad", "prompt": "x", **body}, 260)["model"] == "aad"


@pytest.mark.engine
def test_lines_that_vllms_runner_cannot_read_are_refused_one_by_one():
    from aad_plugin.engine.batch import well_formed

    good = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "aad", "messages": [{"role": "user", "content": "x"}]}}  # fmt: skip
    odd = [{**good, "custom_id": 7}, {**good, "custom_id": "c", "body": {"model": "aad"}},
           {**good, "custom_id": "d", "body": {**good["body"], "max_tokens": "many"}},
           {name: value for name, value in good.items() if name != "method"}]  # fmt: skip
    kept, refused = well_formed([json.dumps(row) for row in (good, *odd)])
    assert kept == [json.dumps(good)] and [row["custom_id"] for row in refused] == [7, "c", "d", "a"]
    assert all(row["response"]["status_code"] == 400 for row in refused)


def test_a_users_overrides_stand_beside_ours():
    own = {"architectures": ["AADForCausalLM"], "aad": {"adapter": "r"}}
    assert with_users(own, {"max_position_embeddings": 1024}) == {"max_position_embeddings": 1024, **own}
    assert with_users(own, None) == own
    with pytest.raises(ConfigError, match="may not name architectures"):
        with_users(own, {"architectures": ["LlamaForCausalLM"]})
    two = {**own, "aad": {"reference": "r"}}  # vLLM gives them to the policy's configuration alone
    with pytest.raises(
        ConfigError, match=r"hf_overrides \(rope_parameters\) reach the policy alone, and reference would"
    ):
        with_users(two, {"rope_parameters": {"rope_type": "yarn"}})


def test_what_a_ranking_request_leaves_out_is_said():
    """Was: the server's --override-generation-config stood for it, and NAME drew from its scores."""
    told = {"temperature": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
    for name in ("aad", "aad-eft"):
        assert check_request({"model": name, "messages": []}).items() >= told.items()
    plain = check_request({"model": "aad-greedy", "messages": []})
    assert "temperature" not in plain
    assert check_request({"model": "aad-greedy", "messages": []}, held=Held(drafts=True))["temperature"] == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"temperature": 0}),
        (["--override-generation-config", '{"max_new_tokens": 512}'], {"temperature": 0, "max_new_tokens": 512}),
        (['--override_generation_config={"top_k": 5}'], {"temperature": 0, "top_k": 5}),
        (["--override-generation-config.max_new_tokens", "7"], {"temperature": 0, "max_new_tokens": 7}),
        (["--override-generation-config.temperature=0.5"], {"temperature": 0.5}),
    ],
    ids=["none", "json", "one word", "by part", "their own"],
)
def test_a_users_defaults_stand_beside_ours(given, expected):
    own = {
        "hf_overrides": {"architectures": ["X"], "aad": {"adapter": "r"}},
        "worker_extension_cls": "W",
        "generation_config": "vllm",
    }
    pair = EnginePair("m", "t", ("m",), own)
    words = engine_arguments(pair, "aad", [*given, "--port", "1"])
    assert words.count("--override-generation-config") == 1 and words[-2:] == ["--port", "1"]
    assert json.loads(words[words.index("--override-generation-config") + 1]) == expected


@pytest.mark.parametrize(
    ("given", "drafts"),
    [
        (["--speculative-config", "{}"], True), (["-sc", "{}"], True), (["--spec-method", "ngram"], True),
        (["--spec_tokens=3"], True), (["--speculative_config.method", "ngram"], True), (["--port", "1"], False),
    ],
)  # fmt: skip
def test_drafts_are_seen_under_every_name(given, drafts, tmp_path):
    assert has_drafts(given) is drafts
    file = tmp_path / "vllm.yaml"
    file.write_text("spec-method: ngram\nport: 1\n")
    assert has_drafts(["--config", str(file), *given])
    file.write_text("hf-overrides: {}\n")
    with pytest.raises(ConfigError, match="names hf-overrides, which a pair sets itself"):
        has_drafts(["--config", str(file), *given])


def test_drafts_and_sampled_answers_are_refused_together():
    body = {"model": "aad-greedy", "messages": [], "temperature": 0.7}
    assert check_request(body)["temperature"] == 0.7
    with pytest.raises(ConfigError, match="start it without drafts"):
        check_request(body, held=Held(drafts=True))
    assert check_request({**body, "temperature": 0}, held=Held(drafts=True))["vllm_xargs"] == {"aad_strategy": "greedy"}


@pytest.mark.parametrize("strategy", ["eft", "reference", "greedy"])
def test_the_plain_name_is_aad_whatever_the_pair_stores(strategy):
    """The engine's own default is the pair's: what a request means goes along with it."""
    assert check_request({"model": "my-pair", "prompt": "x"})["vllm_xargs"] == {"aad_strategy": "aad"}
    alone = check_request({"model": "my-pair", "prompt": "x"}, held=Held(1, True))
    assert alone["vllm_xargs"] == {"aad_strategy": "guided"}
    own = {"model": "my-pair", "prompt": "x", "vllm_xargs": {"aad_strategy": strategy}}
    assert check_request(own)["vllm_xargs"] == {"aad_strategy": strategy}


@pytest.mark.parametrize("model", ["aad", "aad-eft", "aad-greedy"])
@pytest.mark.parametrize("asked", [{"prompt_logprobs": 0}, {"echo": True, "messages": []}])
def test_a_prompts_own_scores_are_no_log_probabilities_either(model, asked):
    with pytest.raises(ConfigError, match="log"):
        check_request({"model": model, **asked})
    assert check_request({"model": model, "prompt": "x", "echo": True})
