"""Whether an answer was truncated stays with the answer: from the decoder to the store, a resumed run and the metric."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from aad_plugin.harness.answer_store import Answer, is_truncated
from aad_plugin.harness.registration import tasks_path
from aad_plugin.pair.model import load_pair
from aad_plugin.pair.strategies import decode
from aad_plugin.settings import DecodingSettings
from tests.toys import EOS, left_pad

TASK = "aad_demo_dialogue"
UNTIL = list("abcdefghijklmnopqrst")  # random toys meet one within twelve tokens about as often as not
BUDGET, LIMIT = 12, 12
STRATEGIES = ("aad", "greedy", "best_of_2")


def run(checkpoints, **options) -> dict[str, float]:
    import lm_eval
    from lm_eval.tasks import TaskManager

    args = checkpoints.model_args("two_models")
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=args)
    results = lm_eval.simple_evaluate(
        model="aad", model_args=args, tasks=[TASK], task_manager=manager, limit=LIMIT, device="cpu", batch_size=5,
        apply_chat_template=True, gen_kwargs={"max_gen_toks": BUDGET, "until": UNTIL}, log_samples=False,
        bootstrap_iters=0, **options,
    )  # fmt: skip
    return {name: results["results"][TASK][f"truncated_{name},none"] for name in STRATEGIES}


def counted(checkpoints, run_folder: Path, strategy: str) -> dict[str, bool]:
    """By hand: each prompt decoded alone; truncated where twelve tokens hold neither an end nor a stop sequence."""
    pair = load_pair(**checkpoints.model_args("two_models"))
    newest = max(run_folder.glob(f"{TASK}/*/answers.jsonl"))
    found = {}
    for row in map(json.loads, newest.read_text().splitlines()):
        turns = row["prompt"] if isinstance(row["prompt"], list) else [{"role": "user", "content": row["prompt"]}]
        text = pair.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids, mask = left_pad([pair.tokenizer(text, add_special_tokens=False)["input_ids"]])
        settings = DecodingSettings(strategy=strategy)
        new = decode(pair, ids, mask, settings, stop=UNTIL, max_new_tokens=BUDGET)[0, ids.shape[1] :].tolist()
        answer = pair.tokenizer.decode(new)
        found[row["id"]] = len(new) == BUDGET and EOS not in new and not any(stop in answer for stop in UNTIL)
    return found


def recorded(run_folder: Path, strategy: str) -> dict[str, bool]:
    newest = max(run_folder.glob(f"{TASK}/*/answers.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return {row["id"]: row["truncated"][strategy] for row in map(json.loads, newest.read_text().splitlines())}


def test_the_metric_is_the_count_by_hand_also_after_a_resume(checkpoints, run_folder):
    first = run(checkpoints)
    wanted = {strategy: counted(checkpoints, run_folder, strategy) for strategy in STRATEGIES}
    for strategy in STRATEGIES:
        assert recorded(run_folder, strategy) == wanted[strategy], strategy
        assert first[strategy] == pytest.approx(sum(wanted[strategy].values()) / LIMIT), strategy
    assert 0 < first["best_of_2"] < 1, "a count that is all or nothing would prove little"
    (kept,) = run_folder.glob("answers/*/rank0.jsonl")
    lines = kept.read_text().splitlines(keepends=True)
    assert len(lines) == len(STRATEGIES) * LIMIT
    kept.write_text("".join(lines[::2]))  # half of the answers are kept, half are decoded again
    assert run(checkpoints) == first
    assert run(checkpoints) == first, "and all of them kept"


def test_lm_evals_own_cache_keeps_it(checkpoints, run_folder, tmp_path, monkeypatch):
    first = run(checkpoints, use_cache=str(tmp_path / "cache"))
    monkeypatch.setenv("AAD_OUTPUT_DIR", str(tmp_path / "elsewhere"))  # nothing is found in the store
    assert run(checkpoints, use_cache=str(tmp_path / "cache")) == first


def test_two_runs_in_one_process_do_not_share_it(checkpoints, run_folder, tmp_path, monkeypatch):
    """The same prompts and strategy by another pair, in between, change nothing."""
    from aad_plugin.harness.model import AADLM
    from aad_plugin.harness.task_host import generate_request

    models = [AADLM(**checkpoints.model_args(kind), device="cpu") for kind in ("two_models", "two_adapters")]
    requests = [generate_request(f"Question {i}", {"until": UNTIL, "max_gen_toks": BUDGET}) for i in range(8)]
    answers = [model.generate_until(requests, disable_tqdm=True) for model in models]
    ends = [[is_truncated(answer) for answer in one] for one in answers]
    again = [[is_truncated(answer) for answer in model.generate_until(requests, disable_tqdm=True)] for model in models]
    assert ends == again and ends[0] != ends[1]


def test_drawn_answers_that_are_not_kept_know_their_end_too(checkpoints):
    from aad_plugin.harness.model import AADLM
    from aad_plugin.harness.task_host import generate_request

    asked = {"until": UNTIL, "max_gen_toks": BUDGET, "do_sample": True, "temperature": 1.0, "strategy": "greedy"}
    model = AADLM(**checkpoints.model_args("two_models"), device="cpu")
    answers = model.generate_until([generate_request("Question", asked) for _ in range(8)], disable_tqdm=True)
    assert {is_truncated(answer) for answer in answers} <= {True, False}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda answer: pickle.loads(pickle.dumps(answer))])
def test_an_answer_is_a_string_that_is_copied_whole(again):
    answer = again(Answer("text", True))
    assert answer == "text" and answer.truncated is True and json.dumps(answer) == '"text"'
    assert is_truncated("plain") is None and is_truncated(type(answer)("gold")) is None and type(answer)(3) == "3"


def test_an_empty_stop_string_ends_no_answer(checkpoints):
    """lm-eval leaves it out of its own cut; every text contains it."""
    import torch

    from aad_plugin.harness.model import AADLM

    model = AADLM(**checkpoints.model_args("two_models"), device="cpu")
    answers = torch.tensor([[65, 66, 67], [65, EOS, EOS]])
    assert model._truncated(answers, [""], EOS) == model._truncated(answers, ["zzz"], EOS) == [True, False]
