"""The real alpaca_eval package: as a judge over the loopback server, and as the source of length control."""

from __future__ import annotations

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.judges import compare, load_judge
from aad_plugin.judges.kinds import alpaca_eval
from aad_plugin.judges.statistics.results import read_difficulties, read_verdicts
from aad_plugin.judges.statistics.summary import summarize
from tests.judges.conftest import made_up
from tests.public_data import DATA, needs_public_data

CONFIG = """
planted:
  prompt_template: planted/prompt.txt
  fn_completions: openai_completions
  completions_kwargs: {model_name: planted, max_tokens: 1, temperature: 0, logprobs: true, top_logprobs: 5}
  fn_completion_parser: logprob_parser
  completion_parser_kwargs: {numerator_token: m, denominator_tokens: [m, M], is_binarize: false}
  completion_key: completions_all
  batch_size: 1
"""
PROMPT = """<|im_start|>system
You compare.
<|im_end|>
<|im_start|>user
{instruction}
## OUTPUT m
{output_1}
## OUTPUT M
{output_2}
## END
<|im_end|>"""


@pytest.fixture
def annotator(tmp_path):
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "configs.yaml").write_text(CONFIG)
    (folder / "prompt.txt").write_text(PROMPT)
    return folder


def client_config(tmp_path, monkeypatch, url):
    path = tmp_path / "client.yaml"
    path.write_text(f"default: [{{api_key: x, base_url: '{url}'}}]\n")
    monkeypatch.setenv("OPENAI_CLIENT_CONFIG_PATH", str(path))
    monkeypatch.setenv("OPENAI_API_KEY", "x")


@pytest.mark.slow
def test_alpaca_eval_annotates_through_the_loopback_judge(loopback, annotator, tmp_path, monkeypatch):
    url, state = loopback()
    client_config(tmp_path, monkeypatch, url)
    items = made_up(20)
    judge = load_judge(f"alpaca_eval:{annotator}")
    verdicts = compare(items, judge, tmp_path / "out", progress=False)
    ours = compare(items, load_judge("openai:planted", base_url=url), progress=False)
    assert [v.p for v in verdicts] == pytest.approx([v.p for v in ours], abs=1e-4)
    assert all(len(v.orders) == 2 for v in verdicts)
    asked = sum(state.seen.values())
    assert compare(items, judge, tmp_path / "out", progress=False) == verdicts and sum(state.seen.values()) == asked


@pytest.mark.slow
@needs_public_data
def test_alpaca_evals_own_length_control_where_its_data_is(tmp_path):
    difficulties = read_difficulties(DATA / "alpaca_eval_instruction_difficulty.csv")
    verdicts = read_verdicts(DATA / "alpaca_eval_annotations_OpenHermes-2.5-Mistral-7B.json.gz")
    # A stand-in for df_gamed.csv, which cannot be had here: its columns, regulariser rows without a length effect.
    dice = np.random.default_rng(0)
    gamed = tmp_path / "df_gamed.csv"
    with gamed.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["model", "preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline"])
        for model in ("concise", "verbose"):
            for index, value in difficulties.items():
                out.writerow([model, 0.5, index, dice.normal(), value, False])
    summary = summarize(verdicts, gamed=gamed)
    assert "by the alpaca_eval package" in summary.lc_method
    own = summarize(verdicts, difficulties=difficulties)
    assert "own GLM" in own.lc_method and abs(summary.lc_win_rate - own.lc_win_rate) < 0.05
    missing = [dataclasses.replace(verdicts[0], p=None, orders=(), reason="content_filter"), *verdicts[1:]]
    assert summarize(missing, gamed=gamed).lc_win_rate == pytest.approx(summary.lc_win_rate, abs=0.01)
    with pytest.raises(ConfigError, match=r"needs verdicts on all 805 instructions, got 100"):
        summarize(verdicts[:100], gamed=gamed)


def test_what_an_annotator_asks_by_is_part_of_the_judge(annotator, tmp_path, monkeypatch):
    """alpaca_eval reads a prompt template from the folder above; another annotator's may be named there."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "prompt.txt").write_text(PROMPT)
    (annotator / "configs.yaml").write_text(CONFIG.replace("planted/prompt.txt", "shared/prompt.txt"))
    before = load_judge(f"alpaca_eval:{annotator}").fingerprint
    (shared / "prompt.txt").write_text(PROMPT.replace("You compare.", "You compare with care."))
    after = load_judge(f"alpaca_eval:{annotator}").fingerprint
    assert after != before  # was the same, so the old prompt's verdicts were taken for the new one's
    monkeypatch.setattr(alpaca_eval.metadata, "version", lambda package: "99")
    assert load_judge(f"alpaca_eval:{annotator}").fingerprint != after


def test_an_installed_annotators_files_are_part_of_the_judge(annotator, tmp_path, monkeypatch):
    package = tmp_path / "alpaca_eval"
    (package / "evaluators_configs").mkdir(parents=True)
    annotator.rename(package / "evaluators_configs" / "planted")
    monkeypatch.setattr(alpaca_eval.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=package / "x.py"))
    before = load_judge("alpaca_eval:planted").fingerprint
    (package / "evaluators_configs" / "planted" / "prompt.txt").write_text(PROMPT + " ")
    assert load_judge("alpaca_eval:planted").fingerprint != before


def test_an_annotator_that_cannot_be_read_is_refused(annotator):
    (annotator / "configs.yaml").write_text("planted: [")
    with pytest.raises(ConfigError, match=r"cannot read the alpaca_eval annotator .*planted: while parsing"):
        load_judge(f"alpaca_eval:{annotator}")


def test_a_folder_without_configuration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is no alpaca_eval annotator: it needs a configs.yaml"):
        load_judge(f"alpaca_eval:{tmp_path}")


def test_repeated_questions_go_to_alpaca_eval_in_calls_of_their_own(annotator, monkeypatch):
    calls = []

    class Worker:
        def __init__(self, environment, clean):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, order):
            calls.append([tuple(pair.values()) for pair in order["pairs"]])
            num = len(order["pairs"])
            return {"preferences": [1.0 + len(calls) / 10] * num, "completions": [""] * num}

    monkeypatch.setattr(alpaca_eval, "Worker", Worker)
    (verdict,) = compare(made_up(1), load_judge(f"alpaca_eval:{annotator}", concurrency=6), repeats=2, progress=False)
    # alpaca_eval answers equal pairs of one call once, so all rounds had the first one's verdict
    assert len(calls) == 3 and all(len(set(call)) == len(call) == 2 for call in calls)
    assert len(verdict.repeats) == 2


def test_a_cost_limit_needs_a_judge_whose_cost_is_known(annotator):
    judge = load_judge(f"alpaca_eval:{annotator}")
    with pytest.raises(ConfigError, match=r"a cost limit needs the judge's price: .*alpaca_eval:planted has none"):
        compare(made_up(1), judge, progress=False, max_cost=1.0)
    with pytest.raises(ConfigError, match=r"is asked by the transport live only, got 'batch'"):
        compare(made_up(1), judge, progress=False, transport="batch")
