"""The served pair under real clients, and the same requests from a file: strategies, refusals, clients that vanish."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from tests.engine.serving import AAD, ENVIRONMENT, QUESTIONS

pytestmark = pytest.mark.engine

# Streams one long answer until it is killed.
READER = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
messages = [{"role": "user", "content": "Tell me a very long story."}]
for chunk in client.chat.completions.create(model="aad", messages=messages, max_tokens=900, stream=True):
    print("chunk", flush=True)
"""


@pytest.fixture(scope="module")
def client(served_demo):
    import openai

    return openai.OpenAI(base_url=served_demo, api_key="none", max_retries=0)


def ask(client, question: str, model: str = "aad", **options) -> str:
    messages = [{"role": "user", "content": question}]
    found = client.chat.completions.create(model=model, messages=messages, max_tokens=24, **options)
    return found.choices[0].message.content


def test_strategies_by_name_and_by_argument(client):
    names = [model.id for model in client.models.list()]
    assert names == ["aad", "aad-greedy", "aad-reference", "aad-eft"]
    answers = {name: [ask(client, question, name) for question in QUESTIONS] for name in names}
    assert len({tuple(rows) for rows in answers.values()}) == 4
    greedy = {"vllm_xargs": {"aad_strategy": "greedy"}}
    assert [ask(client, question, extra_body=greedy) for question in QUESTIONS] == answers["aad-greedy"]
    chunks = client.chat.completions.create(
        model="aad", messages=[{"role": "user", "content": QUESTIONS[0]}], max_tokens=24, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answers["aad"][0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"temperature": 0.7}, "temperature must be 0"),
        ({"logprobs": True}, "would be scores, not log-probabilities"),
        ({"extra_body": {"vllm_xargs": {"aad_strategy": "greddy"}}}, "greedy"),
        ({"extra_body": {"vllm_xargs": {"aad_alpha": 3}}}, "alpha must be"),
        ({"extra_body": {"repetition_penalty": 1.2}}, "repetition_penalty rescales logits"),
    ],
)
def test_what_means_nothing_is_a_400_with_the_reason(client, options, reason):
    import openai

    with pytest.raises(openai.BadRequestError, match=reason):
        ask(client, QUESTIONS[0], **options)


def test_clients_that_vanish_leave_the_answers_as_they_were(client, served_demo):
    import openai

    before = [ask(client, question) for question in QUESTIONS]
    reader = subprocess.Popen([sys.executable, "-c", READER, served_demo], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "chunk\n"
    reader.kill()  # SIGKILL in the middle of its stream
    reader.wait()
    asyncio.run(abort_streams(served_demo, 200))
    with pytest.raises(openai.BadRequestError, match="2048"):
        ask(client, "word " * 5000)
    assert [ask(client, question) for question in QUESTIONS] == before


async def abort_streams(address: str, number: int) -> None:
    import openai

    client = openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0)

    async def one(i: int) -> None:
        messages = [{"role": "user", "content": f"Count to a thousand, {i}."}]
        stream = await client.chat.completions.create(model="aad", messages=messages, max_tokens=500, stream=True)
        async for _ in stream:
            break
        await stream.close()

    for start in range(0, number, 40):
        await asyncio.gather(*(one(i) for i in range(start, start + 40)))
    await client.close()


def test_alpaca_evals_own_decoder(served_demo, client, monkeypatch):
    from alpaca_eval.decoders.openai import openai_completions

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    prompts = [f"<|im_start|>user\n{question}\n<|im_end|>" for question in QUESTIONS[:3]]
    found = openai_completions(
        prompts, model_name="aad", max_tokens=24, num_procs=1, temperature=0.0, requires_chatml=True,
        openai_api_base=served_demo, openai_api_keys=["none"], openai_organization_ids=[None],
    )  # fmt: skip
    assert found["completions"] == [ask(client, question) for question in QUESTIONS[:3]]


def test_lm_evals_own_client(served_demo, tmp_path):
    command = [
        *AAD, "eval", "--model", "local-chat-completions",
        "--model_args", f"model=aad,base_url={served_demo}/chat/completions,max_retries=1",
        "--tasks", "aad_demo_categorization", "--limit", "4", "--apply_chat_template",
        "--gen_kwargs", "max_gen_toks=16", "--output_path", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = ENVIRONMENT | {"OPENAI_API_KEY": "none", "AAD_OUTPUT_DIR": str(tmp_path / "runs")}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    assert list((tmp_path / "out").rglob("results_*.json"))


def test_a_file_of_requests_gets_the_servers_answers(client, batch):
    texts = {name: batch.rows[name]["body"]["choices"][0]["message"]["content"] for name in "agr"}
    models = {"a": "aad", "g": "aad-greedy", "r": "aad-reference"}
    assert texts == {name: ask(client, QUESTIONS[0], model) for name, model in models.items()}
    assert batch.rows["x"]["status_code"] == 400
    assert "temperature must be 0" in batch.rows["x"]["body"]["error"]["message"]
