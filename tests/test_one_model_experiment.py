"""The table of one-model rows: what it says of planted answers, and that a finished row is not made again."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aad_plugin.files.whole import write_text
from experiments.one_model import __main__ as command
from experiments.one_model import rows, times
from experiments.one_model.table import write_table


def row(name, rewards, text="four", **more):
    figures = {"kl_to_policy": 0.5, "degenerate": 0.0, "seconds_per_token": 0.01, "aad_choices": 0.6, "aad_departures": 0.2,
               "steps": 9, "note": "", **more}  # fmt: skip
    return {"row": name, "texts": [text] * len(rewards), "rewards": rewards, **figures}


def test_rows_are_held_against_greedy_and_attempts_are_listed(tmp_path):
    # differences 0, 2, −2, 2: p = 0.5, 0.8808, 0.1192, 0.8808 → mean 0.5952
    done = {"greedy": row("greedy", [1.0] * 4), "expo": row("expo", [1.0, 3.0, -1.0, 3.0], note="scale 2"),
            "aad": row("aad", [2.0] * 4, kl_to_policy=None)}  # fmt: skip
    (tmp_path / "attempts.jsonl").write_text(
        '{"row": "iterate", "began": "2026-11-26T10:00:00"}\n{"row": "expo", "began": "2026-11-26T10:00:00"}\n'
        '{"row": "iterate", "began": "2026-11-26T10:00:00", "outcome": "TrainingFailed: x", "seconds": 4}\n'
    )
    text = write_table(tmp_path, done, ["greedy", "expo", "iterate", "aad"])
    assert (
        "| expo (scale 2) | 1.500 ± 0.957 | 0.595 [" in text
        and "| greedy | 1.000 ± 0.000 | – | – | 4 | 0.500 |" in text
    )
    assert "Still missing: iterate." in text and "* 2026-11-26T10:00:00 iterate: TrainingFailed: x, 4 s" in text
    assert "* 2026-11-26T10:00:00 expo: under way, or killed\n" in text
    assert len(json.loads((tmp_path / "one_model.json").read_text())) == 3


def test_seeds_are_told_together_with_prompts_as_what_was_drawn(tmp_path):
    # seed 1: p = 0.5, 0.8808, 0.1192, 0.8808; seed 2: 0.5 each. Per prompt 1, 2, 0 and 2 by the oracle: 1.25 ± 0.957 / 2
    one = row("distill-aad-1", [1.0, 3.0, -1.0, 3.0], note="step 30", kl_to_policy=0.2)
    other = row("distill-aad-2", [1.0] * 4, text="fourth", note="step 15")
    done = {"greedy": row("greedy", [1.0] * 4), "distill-aad-1": one, "distill-aad-2": other}
    lines = write_table(tmp_path, done, list(done)).splitlines()
    assert lines[5].startswith("| distill-aad, 2 seeds | 1.250 ± 0.479 | 0.548 [") and "| 5 | 0.350 |" in lines[5]
    found = json.loads((tmp_path / "one_model.json").read_text())[-1]
    alone = json.loads((tmp_path / "one_model.json").read_text())[1]
    assert found["row"] == "distill-aad, 2 seeds" and found["note"] == ""
    assert found["win_rate_low"] < found["win_rate"] < found["win_rate_high"]
    twice = write_table(tmp_path, {**done, "distill-aad-2": {**one, "row": "distill-aad-2"}}, list(done)).splitlines()
    assert twice[5].split("|")[3] == twice[3].split("|")[3], "the same answers twice are no more prompts"
    assert alone["win_rate"] == pytest.approx(0.5952, abs=1e-4)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    for number, name in enumerate(("prompts", "held", "oracle")):
        (tmp_path / f"{name}.txt").write_text(f"question {number}\n")
    words = ["--pair", "demo", "--prompts", tmp_path / "prompts.txt", "--held-out-prompts", tmp_path / "held.txt",
             "--oracle-prompts", tmp_path / "oracle.txt", "--oracle", "reward:a", "--picker", "reward:b", "--output",
             tmp_path / "out", "--seeds", "1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["x", *map(str, words)])
    monkeypatch.setattr(command, "add_times", lambda *_: None)


def test_a_finished_row_is_kept_and_a_failed_one_is_tried_again(asked, monkeypatch, tmp_path, capsys):
    from aad_plugin.errors import ConfigError

    made = []

    def measured(asked, name):
        made.append(name)
        if name == "iterate-1" and made.count(name) == 1:
            raise ConfigError("no room")
        return row(name, [1.0, 2.0])

    monkeypatch.setattr(command, "measured", measured)
    with pytest.raises(SystemExit):
        command.main()
    told = capsys.readouterr()
    assert "Still missing: iterate-1." in told.out and "error: rows that failed: iterate-1;" in told.err
    command.main()
    every = [
        "greedy",
        "aad",
        "expo",
        "iterate-1",
        "distill-aad-1",
        "distill-eft-1",
        "grpo-implicit-1",
        "grpo-rollouts-1",
    ]
    assert made == [*every, "iterate-1"]
    lines = (tmp_path / "out" / "attempts.jsonl").read_text().splitlines()
    outcomes = [json.loads(line).get("outcome", "began") for line in lines]
    assert (
        outcomes.count("began") == 9 and outcomes.count("finished") == 8 and outcomes.count("ConfigError: no room") == 1
    )


def test_a_row_that_another_process_makes_is_left_to_it(asked, monkeypatch, tmp_path, capsys):
    made = []

    def measured(asked, name):
        if name == "expo" and "expo" not in made:
            made.append(name)
            command.main()  # the other process, meanwhile
            return row(name, [1.0, 2.0])
        made.append(name)
        return row(name, [1.0, 2.0])

    monkeypatch.setattr(command, "measured", measured)
    command.main()
    assert "row expo is being made by another process" in capsys.readouterr().out
    assert sorted(made) == sorted(set(made)) and len(made) == 8
    assert "Still missing" not in (tmp_path / "out" / "one_model.md").read_text()


def test_trained_rows_take_what_the_training_evaluated_and_share_the_start(asked, monkeypatch, tmp_path):
    figures = {"start": {"picker_mean": 1.0}, "trained": {"picker_mean": 2.5}}
    there = {"oracle": {"texts": ["so"], "scores": [0.25]}, "held_out": {"texts": ["so"], "scores": [0.5]}}
    seen = []

    def reinforce(folder, plan, model_args):
        seen.append((folder / "evaluated" / "start" / "evaluation.json").is_file())
        for when in ("start", "trained"):
            write_text(folder / "evaluated" / when / "evaluation.json", json.dumps(there))
        return figures

    monkeypatch.setattr(rows.reinforcing, "reinforce", reinforce)
    question, _ = command._asked()
    made = [rows._make(question, name) for name in ("grpo-implicit-1", "grpo-rollouts-1")]
    assert seen == [False, True]
    assert made[1].note == "implicit reward of held-out answers 1.00 → 2.50"
    assert rows._scored(question, None, made[1]) == (["so"], [0.25])


def test_times_are_taken_of_four_ways_in_one_process_and_kept(monkeypatch, checkpoints, tmp_path, asked):
    question = replace(command._asked()[0], model_args={"policy": str(checkpoints.policy),
                       "reference": str(checkpoints.reference)}, max_new_tokens=2)  # fmt: skip
    (question.output / "distill-aad-1").mkdir(parents=True)
    (question.output / "distill-aad-1" / "student").symlink_to(checkpoints.policy)
    done = {name: row(name, [1.0]) for name in ("greedy", "aad", "expo", "iterate-1", "distill-aad-1")}
    times.add_times(question, done)
    assert all(one["seconds_per_token"] > 0 for one in done.values())
    assert done["iterate-1"]["seconds_per_token"] == done["distill-aad-1"]["seconds_per_token"]
    monkeypatch.setattr(times, "_measured", None)  # not measured again
    times.add_times(question, done)


def test_rows_of_another_question_are_refused(asked, monkeypatch, tmp_path):
    from aad_plugin.errors import ConfigError

    monkeypatch.setattr(command, "measured", lambda asked, name: row(name, [1.0, 2.0]))
    command.main()
    for words, said in ((["--steps", "9"], "other steps: 30, not 9"), (["--pair", "demo@1"], "other model_args")):
        monkeypatch.setattr(sys, "argv", [*sys.argv[:23], *words])
        with pytest.raises(ConfigError, match=said):
            command._run()
    (tmp_path / "out" / "asked.json").unlink()
    with pytest.raises(ConfigError, match=r"holds rows, but not what they were asked \(asked.json\)"):
        command._run()


def test_other_weights_of_the_pair_and_another_recipe_are_another_question(asked, monkeypatch, checkpoints, tmp_path):
    from aad_plugin.errors import ConfigError

    monkeypatch.setattr(command, "measured", lambda asked, name: row(name, [1.0, 2.0]))
    own = tmp_path / "policy"
    shutil.copytree(checkpoints.policy, own)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 1.0e-4\n")
    pair = ["--model-args", f"policy={own},reference={checkpoints.reference}", "--rl-training", str(recipe)]
    monkeypatch.setattr(sys, "argv", [*sys.argv[:1], *sys.argv[3:], *pair])
    command.main()
    recipe.write_text("learning_rate: 2.0e-4\n")
    with pytest.raises(ConfigError, match="other recipes"):
        command._run()
    recipe.write_text("learning_rate: 1.0e-4\n")
    command.main()
    shutil.copy(checkpoints.reference / "model.safetensors", own / "model.safetensors")
    with pytest.raises(ConfigError, match="other model_args"):
        command._run()


def test_a_picker_that_is_the_oracle_under_another_name_is_refused(asked, monkeypatch, checkpoints, tmp_path):
    from aad_plugin.errors import ConfigError

    for name in ("one", "two"):
        shutil.copytree(checkpoints.policy, tmp_path / name)
    words = ["--oracle", f"reward:{tmp_path / 'one'}", "--picker", f"reward:{tmp_path / 'two'}"]
    monkeypatch.setattr(sys, "argv", [*sys.argv, *words])
    with pytest.raises(ConfigError, match="are one reward model by two names"):
        command._asked()


def test_trainings_take_the_pairs_own_alpha(asked, monkeypatch):
    plans = []

    def reinforce(folder, plan, model_args):
        plans.append(plan)
        return {"start": {"picker_mean": 1.0}, "trained": {"picker_mean": 2.5}}

    monkeypatch.setattr(rows.reinforcing, "reinforce", reinforce)
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--model-args", "alpha=0.3"])
    rows._make(command._asked()[0], "grpo-rollouts-1")
    assert plans[0].alpha == 0.3 and plans[0].trl_arguments[-2:] == ("--max_completion_length", "64")


def test_a_synthesis_that_was_half_copied_is_copied_again(asked, monkeypatch, tmp_path):
    question = command._asked()[0]
    there = question.output / "iterate-1" / "round-1" / "synthesis"
    (there / "dataset").mkdir(parents=True)
    (there / "synthesis.json").write_text("{}")
    write_text(question.output / "rows" / "iterate-1.json", "{}")
    monkeypatch.setattr(
        rows.shutil, "copytree", lambda one, other, **_: (Path(other) / "synthesis.json").write_text("")
    )
    monkeypatch.setattr(rows.rounds, "iterate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(rows, "making_folder", stopped(rows.making_folder))
    with pytest.raises(KeyboardInterrupt):
        rows._iterated(question, "2")
    assert not (question.output / "iterate-2" / "round-1" / "synthesis").exists()


def stopped(making):
    """A folder in the making whose process is interrupted before it is whole."""

    @contextlib.contextmanager
    def making_folder(target):
        with making(target) as part:
            yield part
            raise KeyboardInterrupt

    return making_folder
