"""``aad alpaca-eval generate``: from a pair, a server, saved answers; interrupted, and with bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from aad_plugin.alpaca.generation import claim
from aad_plugin.alpaca.instructions import InstructionSet, load_instructions
from aad_plugin.errors import BackendMissing, ConfigError, JudgeUnavailable
from tests.alpaca.made import BASELINE, NUM, instruction, references, write
from tests.public_data import needs_public_data

FIELDS = ["dataset", "instruction", "output", "generator"]


def rows_of(folder):
    return json.loads((folder / "model_outputs.json").read_text())


def account_of(folder):
    return json.loads((folder / "generation.json").read_text())


def served(url):
    return ["--model", "planted", "--base-url", url, "--max-new-tokens", "9"]


def test_a_folder_of_a_server_is_no_other_servers(tmp_path):
    """Was: whoever serves a model by the same name, the answers of the first stood for the second's."""
    instructions = load_instructions(write(tmp_path / "own.json", [{"instruction": "Why?"}]))
    folder = tmp_path / "run"
    first, second = ({"source": "server", "url": f"http://{host}/v1", "body": {"model": "m"}} for host in ("a", "b"))
    claim(folder, "m", instructions, first)
    (folder / "answers" / "server-x").mkdir(parents=True)
    (folder / "answers" / "server-x" / "x.jsonl").touch()
    claim(folder, "m", instructions, first)
    with pytest.raises(ConfigError, match='url is "http://a/v1", not "http://b/v1"'):
        claim(folder, "m", instructions, second)
    account = account_of(folder)
    del account["asked"]["url"]  # as earlier versions left it
    write(folder / "generation.json", account)
    claim(folder, "m", instructions, second)


# ---------------------------------------------------------------- instructions


@needs_public_data
def test_the_shipped_marks_are_those_of_the_official_file(tmp_path):
    found = load_instructions(BASELINE)
    official = InstructionSet.official()
    assert found.kind == "official" and found.digest == official.digest and len(official) == 805
    assert [(r.dataset, r.mark, r.reference) for r in found.rows] == [
        (r.dataset, r.mark, r.reference) for r in official.rows
    ]
    backwards = write(tmp_path / "backwards.json", json.loads(BASELINE.read_text())[::-1])
    assert load_instructions(backwards).digest == official.digest


@needs_public_data
def test_a_changed_or_incomplete_official_set_is_refused(tmp_path):
    rows = json.loads(BASELINE.read_text())
    changed = [dict(row) for row in rows]
    changed[4]["instruction"] += " "
    with pytest.raises(ConfigError, match=r"is a changed instruction set: 804 of its 805 rows are AlpacaEval's, 1 are "
                       r"not; first: row 5, .*Restore AlpacaEval's texts"):  # fmt: skip
        load_instructions(write(tmp_path / "changed.json", changed))
    part = write(tmp_path / "part.json", rows[:100])
    with pytest.raises(ConfigError, match=r"holds 100 of AlpacaEval's 805 instructions; .*or --partial to have it"):
        load_instructions(part)
    assert load_instructions(part, partial=True).label == "a part of AlpacaEval: 100 of 805 instructions"
    with pytest.raises(ConfigError, match=r"entry 6: this instruction stands at .*entry 1 already"):
        load_instructions(write(tmp_path / "twice.json", [*rows[:5], rows[0]]), partial=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no instructions"),
        ([{"instruction": "  "}], r"entry 1: expected an object with an instruction, a text, got \"  \""),
        ([{"prompt": "x"}], "expected an object with an instruction, a text, got null"),
        ([{"instruction": "x", "output": 3}], "dataset and output must be texts"),
        ({"instruction": "x"}, "must hold a list of objects, got dict"),
    ],
)
def test_bad_instruction_files(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message):
        load_instructions(write(tmp_path / "set.json", content))


def test_without_hub_the_error_says_what_to_pass(monkeypatch, tmp_path):
    monkeypatch.setenv("AAD_DATA_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"holds no alpaca_eval_gpt4_baseline.json; pass --instructions FILE"):
        load_instructions(None)


# ---------------------------------------------------------------- a pair


def test_a_pair_answers_in_order_and_a_second_run_answers_nothing(aad, own_set, checkpoints, tmp_path):
    out = tmp_path / "out"
    given = ["--model-args", f"policy={checkpoints.policy},reference={checkpoints.reference},device=cpu"]
    given += ["--name", "toy-aad", "--output", out, "--instructions", own_set, "--max-new-tokens", "10"]
    done = aad("generate", *given, "--strategy", "aad")
    assert done.exit_code == 0, done.output
    assert "12 outputs of toy-aad" in done.stdout and "not AlpacaEval's instructions: 12 others" in done.stdout
    rows = rows_of(out)
    assert [list(row) for row in rows] == [FIELDS] * NUM
    assert [row["instruction"] for row in rows] == [instruction(n) for n in range(NUM)]
    assert {row["generator"] for row in rows} == {"toy-aad"} and all(row["output"].strip() for row in rows)
    account = account_of(out)
    assert account["complete"] and account["prompt"] == "<user>{instruction}<assistant>"
    assert account["completions_kwargs"]["decoding"] == {"strategy": "aad", "alpha": 0.1}
    (kept,) = (out / "answers").glob("*/rank0.jsonl")
    before = kept.read_text()
    (out / "model_outputs.json").unlink()
    assert aad("generate", *given, "--strategy", "aad", "--batch-size", "3").exit_code == 0
    assert rows_of(out) == rows and kept.read_text() == before
    # another strategy, name or set is another folder's
    for changed, what in (
        (["--strategy", "greedy"], 'another source or setting: strategy is "aad", not "greedy"'),
        (["--strategy", "aad", "--name", "other"], 'another name: "toy-aad", not "other"'),
    ):
        with pytest.raises(ConfigError, match=what):
            raise aad("generate", *given, *changed).exception
    shorter = write(tmp_path / "shorter.json", references(5))
    with pytest.raises(ConfigError, match="holds outputs of a changed instruction set"):
        raise aad("generate", *given, "--strategy", "aad", "--instructions", shorter).exception
    assert rows_of(out) == rows


def test_an_instruction_without_room_is_named_before_anything_is_decoded(aad, checkpoints, tmp_path):
    path = write(tmp_path / "long.json", [{"instruction": "a"}, {"instruction": "b" * 600}])
    given = ["--model-args", f"policy={checkpoints.policy},reference={checkpoints.reference},device=cpu"]
    with pytest.raises(
        ConfigError, match=r"instruction 2 has 6\d\d tokens; with 10 new ones it exceeds the policy's context of 512"
    ):
        raise aad("generate", *given, "--name", "x", "--output", tmp_path / "o", "--instructions", path,
                  "--max-new-tokens", "10").exception  # fmt: skip


def test_a_blank_answer_is_asked_for_once_more(monkeypatch, tmp_path):
    from aad_plugin.alpaca import from_pair
    from aad_plugin.harness.answer_store import Stored

    asked = []

    def answer(_, contexts, gen_kwargs):
        asked.append((list(contexts), gen_kwargs.get("min_new_tokens")))
        return [Stored(" \n" if context == "two" and len(asked) == 1 else context, False) for context in contexts]

    class Model:
        class tokenizer:
            chat_template = "x"

        class settings:
            relevant = staticmethod(dict)

        max_length = 100
        apply_chat_template = staticmethod(lambda turns: turns[0]["content"])
        tok_encode = staticmethod(list)
        model_account = staticmethod(lambda: {"pair": "p"})

    monkeypatch.setattr(from_pair, "ask", answer)
    monkeypatch.setattr(from_pair, "load_model", lambda *_: Model)
    source = from_pair.FromPair(
        "demo", engine="hf", model_args={}, settings={}, max_new_tokens=20, batch_size=1, folder=tmp_path
    )
    assert [a.text for a in source.answer(["one", "two"])] == ["one", "two"]
    assert asked == [(["one", "two"], None), (["two"], 8)]


# ---------------------------------------------------------------- a server


def test_a_server_answers_and_failures_are_asked_again(aad, own_set, tmp_path, loopback):
    url, state = loopback(text="<think>hm</think> A fine answer.")
    state.fails = [(400, {"error": {"message": "no", "code": "x"}})]
    given = ["--name", "served", "--output", tmp_path / "out", "--instructions", own_set, *served(url)]
    with pytest.raises(ConfigError, match=r"1 of 12 instructions have no usable answer, first: row \d+, .*rejected: .*no.*"
                       "The other answers are kept; run the same command again"):  # fmt: skip
        raise aad("generate", *given).exception
    assert not (tmp_path / "out" / "model_outputs.json").exists()
    assert aad("generate", *given).exit_code == 0
    assert {row["output"] for row in rows_of(tmp_path / "out")} == {"A fine answer."}
    assert sorted(state.seen.values()) == [1] * 11 + [2]
    assert account_of(tmp_path / "out")["completions_kwargs"]["model_name"] == "planted"


def test_rows_without_an_answer_are_left_out_with_partial(aad, own_set, tmp_path, loopback):
    url, state = loopback(text="fine")
    state.fails = [(400, {"error": {"message": "no", "code": "x"}})]
    out = tmp_path / "out"
    done = aad("generate", "--name", "n", "--output", out, "--instructions", own_set, "--partial", *served(url))
    assert done.exit_code == 0 and "1 rows without an answer left out" in done.stdout
    assert len(rows_of(out)) == 11 and len(account_of(out)["left_out"]) == 1


@pytest.mark.parametrize(
    ("message", "finish", "reason"),
    [
        ({"content": "half \ud800"}, "stop", "the answer holds half a surrogate pair, which is no character"),
        ({"content": None}, "length", "the answer is empty, its budget went into thinking: raise --max-new-tokens"),
        ({"content": [1]}, "stop", "expected text as the message's content, got list"),
        ({"content": "x"}, "content_filter", "the server's content filter stopped the answer"),
        ("no message", "stop", "the reply is no chat completion"),
    ],
)
def test_odd_replies_are_no_answers(message, finish, reason):
    from aad_plugin.alpaca.from_server import _read
    from aad_plugin.judges.asking.requests import Reply

    assert _read(Reply("k", {"choices": [{"message": message, "finish_reason": finish}]})).reason == reason


def test_without_vllm_its_engine_is_refused_before_anything_is_loaded(aad, own_set, tmp_path):
    if importlib.util.find_spec("vllm") is not None:
        return  # the engine's environment; see tests/engine
    given = ["--name", "n", "--pair", "demo", "--output", tmp_path / "o", "--instructions", own_set, "--engine", "vllm"]
    with pytest.raises(BackendMissing, match=r"vLLM is not installed: pip install 'aad_plugin\[vllm\]'"):
        raise aad("generate", *given).exception


def test_a_dead_server_is_one_line_and_keeps_answers(aad, own_set, tmp_path, loopback):
    url, state = loopback(text="fine")
    state.fails = [(402, {"error": {"message": "pay", "code": "insufficient_quota"}})]
    given = ["--name", "n", "--output", tmp_path / "out", "--instructions", own_set, "--concurrency", "1", *served(url)]
    with pytest.raises(JudgeUnavailable, match="quota is exhausted"):
        raise aad("generate", *given).exception
    assert aad("generate", *given).exit_code == 0


RUN = "import sys; from aad_plugin.cli.main import run; sys.argv = ['aad', 'alpaca-eval', *sys.argv[1:]]; run()"


def test_a_kill_loses_no_answer_and_asks_for_none_twice(own_set, tmp_path, loopback):
    url, state = loopback(text="fine", latency_s=0.2)
    out = tmp_path / "out"
    command = [sys.executable, "-c", RUN, "generate", "--name", "n", "--output", str(out), "--instructions", str(own_set),
               "--concurrency", "2", *served(url)]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def kept():
        return sum(len(path.read_text().splitlines()) for path in out.glob("answers/*/*.jsonl"))

    while kept() < 4 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = kept()
    assert 4 <= before < NUM and not (out / "model_outputs.json").exists()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert len(rows_of(out)) == NUM == kept()
    # only the two in flight at the kill were asked for again
    assert len(state.seen) == NUM and sum(times - 1 for times in state.seen.values()) <= 2


# ---------------------------------------------------------------- saved answers


def test_samples_of_an_lm_eval_run_become_outputs(aad, own_set, tmp_path):
    lines = []
    for n in reversed(range(NUM)):
        doc = {"prompt": instruction(n)}
        arguments = {
            f"gen_args_{k}": {
                "arg_0": f"<user>{instruction(n)}<assistant>",
                "arg_1": {"strategy": s, "max_gen_toks": 64},
            }
            for k, s in enumerate(("aad", "greedy"))
        }
        resps = [[f"aad says {n}"], [f"greedy says {n}"]]
        lines.append({"doc": doc, "doc_id": n, "arguments": arguments, "resps": resps, "filter": "none"})
    path = tmp_path / "samples_aad_alpaca_eval_2026.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["--name", "n", "--output", tmp_path / "out", "--instructions", own_set]
    assert aad("generate", *given, "--from", f"{path}#aad").exit_code == 0
    assert [row["output"] for row in rows_of(tmp_path / "out")] == [f"aad says {n}" for n in range(NUM)]
    account = account_of(tmp_path / "out")
    assert account["prompt"] == "<user>{instruction}<assistant>"
    assert account["completions_kwargs"] == {"max_new_tokens": 64, "decoding": {"strategy": "aad"}}
    with pytest.raises(ConfigError, match="the row holds 2 answers; choose one with FILE#strategy"):
        raise aad(
            "generate", "--name", "n", "--output", tmp_path / "o2", "--instructions", own_set, "--from", path
        ).exception
    short = write(tmp_path / "short.json", [{"instruction": instruction(0), "output": "x"}])
    with pytest.raises(ConfigError, match=r"11 of 12 instructions .*row 2, .*the file has no answer to it"):
        raise aad(
            "generate", "--name", "n", "--output", tmp_path / "o3", "--instructions", own_set, "--from", short
        ).exception


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "../evil", "--pair", "demo"], r"a name is a folder's .* got '../evil'"),
        (["--name", "a b", "--pair", "demo"], "a name is a folder's"),
        (["--name", "x"], "pass one source of answers: .* got none"),
        (["--name", "x", "--pair", "demo", "--from", "f"], "pass one source of answers: .* got several"),
        (["--name", "x", "--model", "m"], "a server needs both --model and --base-url"),
        (["--name", "x", "--pair", "demo", "--engine", "tpu"], "engine must be hf or vllm, got 'tpu'"),
        (["--name", "x", "--pair", "demo", "--strategy", "grdy"], "did you mean 'greedy'"),
        (["--name", "x", "--pair", "demo", "--max-new-tokens", "0"], "max_new_tokens must be at least 1, got 0"),
        (["--name", "x", "--model", "m", "--base-url", "nonsense"], "base_url .* must be an address"),
        (["--name", "x", "--from", "missing.jsonl"], "cannot read missing.jsonl"),
        (
            ["--name", "x", "--from", "f", "--alpha", "0.3", "--seed", "1"],
            "reads saved answers, makes no use of --alpha, --seed",
        ),
        (
            ["--name", "x", "--model", "m", "--base-url", "http://127.0.0.1:1/v1", "--strategy", "eft"],
            "a server, which decodes as its --model says, makes no use of --strategy: leave it out",
        ),
    ],
)
def test_mistakes_are_one_line(aad, own_set, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        raise aad("generate", *arguments, "--output", tmp_path / "out", "--instructions", own_set).exception
    assert not (tmp_path / "out").exists()
