"""The gate finds what was planted, keeps quiet where nothing was, and says why it cannot compare."""

from __future__ import annotations

import json
import random
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from aad_plugin.cli.main import app
from aad_plugin.errors import ConfigError
from aad_plugin.judges.items import Verdict
from aad_plugin.judges.statistics.intervals import paired_difference
from aad_plugin.judges.statistics.results import write_results
from aad_plugin.judges.statistics.summary import summarize
from aad_plugin.report.documents import AnswerText, Document
from aad_plugin.report.gate import check_gate
from aad_plugin.report.gate_file import Gate, Rule, read_gate
from aad_plugin.report.gate_views import gate_text
from aad_plugin.report.runs import Run, TaskRun, read_run
from aad_plugin.report.verdict_folders import Comparison
from aad_plugin.texts.messages import prompt_hash
from tests.report import gate_simulation as simulation
from tests.report.planted import sha, texts, write_run, write_stock_run

N = 500


class Model:
    """A model under test: every document has its own chance of a right label and its own mean verdict."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.right = rng.beta(3.2, 0.8, N)
        self.verdict = rng.beta(2, 2, N)

    def run(self, seed: int, drop: float = 0.0) -> Run:
        """One run of it; a planted drop takes so much off every chance and every verdict."""
        rng = np.random.default_rng([seed, 1])
        labels = rng.random(N) < self.right - drop
        verdicts = np.clip(self.verdict - drop + rng.normal(0, 0.1, N), 0, 1)
        task = TaskRun("planted", higher_is_better={"accuracy": True}, version=1)
        for i in range(N):
            values = {"accuracy,none": float(labels[i]), "length_aad,none": 7.0}
            task.documents[str(i)] = Document(str(i), str(i), "q", f"prompt {i // 2}", values=values)
            task.documents[str(i)].prompt_hash = f"prompt {i}"
        judged = [Verdict(str(i), f"prompt {i}", "judge", p=float(p)) for i, p in enumerate(verdicts)]
        task.comparisons.append(Comparison("aad", "greedy", {"judge": "judge"}, judged))
        return Run(f"run {seed}", tasks={"planted": task})


def test_a_planted_drop_of_five_points_is_found():
    """25 of 500 right labels turned wrong, and verdicts 0.05 lower, between two runs that otherwise decode alike."""
    model = Model(0)
    old, new = model.run(1), model.run(1)
    right = [one for one in new.tasks["planted"].documents.values() if one.values["accuracy,none"] == 1.0]
    for document in right[:25]:
        document.values["accuracy,none"] = 0.0
    new.tasks["planted"].comparisons = model.run(2, drop=0.05).tasks["planted"].comparisons
    result = check_gate(old, new, Gate())
    found = {one.metric: one for one in result.compared}
    assert {name: one.outcome for name, one in found.items()} == dict.fromkeys(found, "regression")
    assert found["accuracy"].test == "McNemar" and found["win_rate_vs_greedy"].test == "sign flips"
    assert found["accuracy"].difference == pytest.approx(-0.05)
    assert found["win_rate_vs_greedy"].difference == pytest.approx(-0.05, abs=0.02)
    assert result.exit_code == 1
    assert check_gate(new, old, Gate()).exit_code == 0  # the other way it is better


def simulate(pairs: int, drop: float) -> dict[str, float]:
    """Share of pairs of runs with different seeds in which the gate alarms, at all and by metric."""
    alarms = {"any": 0, "accuracy": 0, "win_rate_vs_greedy": 0}
    for pair in range(pairs):
        model = Model(pair)
        result = check_gate(model.run(1000 + 2 * pair), model.run(1001 + 2 * pair, drop), Gate())
        alarms["any"] += result.exit_code == 1
        for one in result.regressions:
            alarms[one.metric] += 1
    return {name: many / pairs for name, many in alarms.items()}


@pytest.mark.grid
def test_false_alarms_and_power_over_two_hundred_pairs():
    """Labels of a sampled answer change from seed to seed, which hides a drop: there 500 documents are not enough."""
    quiet, found = simulate(200, 0.0), simulate(200, 0.05)
    print(f"false alarms {quiet}; a planted drop of 5 points is found {found}")
    assert quiet["any"] <= 0.05 and found["any"] >= 0.95


def test_mcnemar_by_hand():
    """10 documents changed, 9 for the worse: p = (C(10,9) + C(10,10)) / 2^10 = 11 / 1024."""
    old = _labels([1] * 9 + [0] + [1] * 10)
    new = _labels([0] * 9 + [1] + [1] * 10)
    (one,) = check_gate(old, new, Gate()).compared
    assert one.test == "McNemar" and one.p == pytest.approx(11 / 1024)
    assert (one.old, one.new, one.outcome) == (0.95, 0.55, "regression")


def test_holm_shares_the_level_out():
    """p = 11/1024 = 0.0107 passes alone at 0.025, but not as one of three: 3 · 0.0107 = 0.032."""
    worse = [0] * 9 + [1] + [1] * 10, [1] * 9 + [0] + [1] * 10
    old = _labels(worse[1], b=[1] * 20, c=[1] * 20)
    new = _labels(worse[0], b=[1] * 20, c=[1] * 20)
    result = check_gate(old, new, Gate())
    assert result.exit_code == 0 and min(one.p_holm for one in result.compared) == pytest.approx(33 / 1024)


def test_a_small_sure_drop_may_be_allowed():
    model = Model(3)
    rules = (Rule(metric="win_rate_vs_greedy", smallest_drop=0.2),)
    result = check_gate(model.run(1), model.run(2, drop=0.05), Gate(rules=rules))
    assert result.compared[0].p_holm < 0.01 and result.exit_code == 0


def test_less_may_be_better():
    old, new = _labels([0] * 20), _labels([1] * 20)
    result = check_gate(old, new, Gate(rules=(Rule(metric="a", direction="lower"),)))
    assert result.exit_code == 1 and result.compared[0].difference == 1.0


def test_documents_with_one_prompt_are_one_cluster():
    """40 equal rows of 4 prompts say no more than 4 rows: a sign test of 4."""
    estimate = paired_difference([-0.1] * 40, [i // 10 for i in range(40)])
    assert estimate.p_below == pytest.approx(0.5**4)
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.normal(-0.1, 1, 8), 50)
    assert paired_difference(noise, np.repeat(np.arange(8), 50).tolist()).p_below > 0.1
    assert paired_difference(noise).p_below < 0.1 or noise.mean() > 0


def test_sign_flips_are_near_the_t_test():
    from scipy import stats

    values = np.random.default_rng(5).normal(-0.05, 1, 400)
    found = paired_difference(values)
    assert found.p_below == pytest.approx(stats.ttest_1samp(values, 0, alternative="less").pvalue, abs=0.01)
    assert found.low < found.value < found.high == 0 and found.p_below <= 0.025  # interval and test agree


def _labels(a: list[int], **others: list[int]) -> Run:
    columns = {"a": a, **others}
    task = TaskRun("t", higher_is_better=dict.fromkeys(columns, True))
    for i in range(len(a)):
        values = {f"{name},none": float(column[i]) for name, column in columns.items()}
        task.documents[str(i)] = Document(str(i), str(i), f"q{i}", f"h{i}", values=values)
    return Run("run", tasks={"t": task})


# ------------------------------------------------------------------ files and the command


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs that differ in one thing each."""
    root = tmp_path_factory.mktemp("gate")
    rng = random.Random(0)
    answers = texts(40, 60)
    right = [{"accuracy_aad": float(rng.random() < 0.9)} for _ in answers]
    wrong = [{"accuracy_aad": float(i % 3 == 0)} for i in range(40)]
    common = {
        "labels": right,
        "direction": {"accuracy_aad": True},
        "p_of": lambda r, n: 0.9 * (37 * n % 100) / 100 + 0.1 * r.random(),
    }
    write_run(root / "old", answers, **common)
    write_run(root / "new", answers, **common, seed=2)
    write_run(root / "worse", answers, **{**common, "labels": wrong})
    write_run(root / "version", answers, **common, version=2.0)
    write_run(root / "dtype", answers, **common, dtype="torch.float32")
    write_run(root / "judge", answers, **common, judge="openai:other")
    prompts = [f"Question {i}: what is {i} plus {i}? Please." for i in range(40)]
    write_run(root / "prompts", answers, **common, prompts=prompts)
    write_run(root / "fewer", answers[:30], **{**common, "labels": right[:30]})
    write_run(root / "unjudged", answers, **{**common, "p_of": None})
    for name, text in GATES.items():
        (root / f"{name}.yaml").write_text(text)
    return root


def _judged_again(run: Path, folder: str, p: float, candidate: str = "aad", judge: str = "openai:second") -> None:
    """Another `aad judge` run of the planted answers against greedy's, with one p throughout."""
    (samples,) = run.glob("out/*/samples_*")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    verdicts = [
        Verdict(
            str(i),
            prompt_hash(row["doc"]["prompt"]),
            judge,
            p=p,
            candidate_length=len(row["judged"]["answers"][candidate][0]),
        )
        for i, row in enumerate(rows)
    ]
    sides = {"candidate": f"samples_planted.jsonl#{candidate}", "baseline": "samples_planted.jsonl#greedy"}
    write_results(run / folder, verdicts, {**summarize(verdicts).to_json(), **sides})


def test_two_judges_of_one_rival_are_two_metrics(tmp_path):
    """Was: the one whose folder came last was gated, and the other's fall from 1 to 0 passed."""
    answers = texts(40, 60)
    for name, p in (("old", 1.0), ("new", 0.0)):
        _judged_again(write_run(tmp_path / name, answers, p_of=lambda rng, number: 0.75), "a_judge", p)
    gate = Gate(0.05, (), (Rule("planted", "*", "", 0.0),))
    result = check_gate(read_run(str(tmp_path / "old")), read_run(str(tmp_path / "new")), gate)
    assert result.exit_code == 1 and len(result.regressions) == 1
    rates = sorted(one.metric for one in result.compared if one.metric.startswith("win_rate"))
    assert len(rates) == 2 and all(one.startswith("win_rate_vs_greedy of aad by openai:") for one in rates)


def test_each_task_has_the_dtype_of_its_own_results(tmp_path):
    """Was: that of the file whose path sorts last, for all of them."""
    answers = texts(10, 60)
    for name, dtype in (("old", "torch.float32"), ("new", "torch.bfloat16")):
        for task, own in (("one", dtype), ("two", "torch.bfloat16")):
            labels = [{"accuracy_aad": 1.0}] * 10
            write_run(
                tmp_path / name / task, answers, task=task, dtype=own, labels=labels, direction={"accuracy_aad": True},
            )  # fmt: skip
    gate = Gate(0.05, (), (Rule("*", "*", "", 0.0),))
    old, new = (read_run(str(tmp_path / name)) for name in ("old", "new"))
    result = check_gate(old, new, gate)
    assert [(one.task, one.what, one.detail) for one in result.mismatches] == [
        ("one", "dtype", "float32 in old, bfloat16 in new")
    ]
    assert old.dtype == "bfloat16 / float32" and old.problems == []


GATES = {
    "all": "",
    "allow": "allow: [dtype, judge, version]",
    "none": "gates: [{task: other}]",
    "unknown": "levle: 0.1",
    "level": "level: 2",
    "list": "gates: {task: x}",
    "allowed": "allow: [dytpe]",
    "length": "gates: [{metric: length_aad}]",
    "direction": "gates: [{metric: length_aad, direction: up}]",
    "drop": "gates: [{smallest_drop: -1}]",
    "torn": "gates: [",
}


def compare(folders, new: str, gate: str = "all", *more: str):
    arguments = [
        "report",
        "--compare",
        str(folders / "old"),
        str(folders / new),
        "--gate",
        str(folders / f"{gate}.yaml"),
    ]
    return CliRunner().invoke(app(), [*arguments, *more])


def test_the_command_is_quiet_and_ends_with_0(folders):
    done = compare(folders, "new")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "new against old: no regression in 2 metrics (level 0.025, Holm)"


def test_the_command_names_a_regression_in_all_three_forms(folders, tmp_path):
    done = compare(folders, "worse", "all", "--json", str(tmp_path / "g.json"), "--junit", str(tmp_path / "g.xml"))
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "worse against old: 1 of 2 metrics got worse (level 0.025, Holm)"
    assert "REGRESSION" in next(line for line in done.stdout.splitlines() if "accuracy_aad" in line)
    content = json.loads((tmp_path / "g.json").read_text())
    assert content["exit_code"] == 1 and {one["metric"] for one in content["compared"]} == {
        "accuracy_aad",
        "win_rate_vs_greedy",
    }
    suite = ElementTree.parse(tmp_path / "g.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    failure = suite.find(".//testcase[@name='accuracy_aad']/failure")
    assert failure is not None and "accuracy_aad went from" in failure.get("message", "")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("version", "not comparable: planted: version: 1.0 in old, 2.0 in version"),
        ("dtype", "not comparable: planted: dtype: bfloat16 in old, float32 in dtype"),
        ("judge", "not comparable: planted: judge: win_rate_vs_greedy: openai:planted "),
        ("prompts", "not comparable: planted: documents: 40 only in old, 40 only in prompts, for example doc-"),
        ("fewer", "not comparable: planted: documents: 10 only in old, 0 only in fewer, for example doc-000"),
        ("unjudged", "not comparable: planted: metric: win_rate_vs_greedy is missing in unjudged"),
    ],
)
def test_what_cannot_be_compared_is_said_and_ends_with_3(folders, tmp_path, new, said):
    done = compare(folders, new, "all", "--junit", str(tmp_path / "g.xml"))
    assert done.exit_code == 3 and said in done.stdout
    assert ElementTree.parse(tmp_path / "g.xml").getroot().get("errors") == "1"


def test_another_rendering_of_the_same_documents_is_another_prompt(folders, tmp_path):
    import shutil

    shutil.copytree(folders / "new", tmp_path / "template")
    (samples,) = tmp_path.glob("template/out/*/samples_*")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    samples.write_text("".join(json.dumps({**row, "prompt_hash": row["prompt_hash"][::-1]}) + "\n" for row in rows))
    done = compare(folders, str(tmp_path / "template"))
    assert done.exit_code == 3
    assert "planted: prompts: 40 of 40 documents were asked by another prompt" in done.stdout


def test_accepted_differences_are_compared(folders):
    for new in ("version", "dtype", "judge"):
        assert compare(folders, new, "allow").exit_code == 0


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ("none", "the gate covers no metric with values per document in old; there are planted: accuracy_aad"),
        ("unknown", "unknown entry 'levle' (did you mean 'level'?); there are level, allow, gates"),
        ("level", "level must lie in (0, 0.5], got 2.0"),
        ("list", "gates must be a list of task, metric, direction, smallest_drop, got {'task': 'x'}"),
        ("allowed", "got 'dytpe' (did you mean 'dtype'?)"),
        ("length", "lm-eval does not say whether more of length_aad is better: give the gate a direction"),
        ("direction", "direction must be higher or lower, got 'up'"),
        ("drop", "smallest_drop must be at least 0, got -1.0"),
        ("torn", "is not YAML: while parsing"),
        ("missing", "cannot read the gate file"),
    ],
)
def test_mistakes_end_with_2_in_one_line(folders, gate, said):
    done = compare(folders, "new", gate)
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--compare", "{root}/old", "{root}/new"], 2, "--compare needs --gate FILE"),
        (["--compare", "{root}/old", "{root}/none", "--gate", "{root}/all.yaml"], 2, "no folder"),
        (
            ["{root}/old", "--compare", "{root}/old", "{root}/new", "--gate", "{root}/all.yaml"],
            2,
            "takes both runs itself",
        ),
        (
            ["--compare", "{root}/old", "{root}/new", "--gate", "{root}/all.yaml", "--json", "{root}"],
            2,
            "it is a folder",
        ),
        (["--compare", "{root}/old"], 2, "requires 2 arguments"),
    ],
)
def test_a_wrong_call_ends_with_2(folders, arguments, code, said):
    done = CliRunner().invoke(app(), ["report", *(one.format(root=folders) for one in arguments)])
    assert done.exit_code == code and said in done.stderr


def test_the_gates_options_belong_to_a_comparison(folders):
    done = CliRunner().invoke(app(), ["report", str(folders / "old"), "--gate", "x.yaml"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == "--gate belongs to a comparison: pass --compare OLD NEW"


def test_a_gate_file_reads_as_documented(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text(
        "level: 0.01\nallow: [dtype]\ngates:\n- {task: 'aad_*', metric: accuracy_aad, smallest_drop: 0.01}\n"
    )
    assert read_gate(path) == Gate(0.01, ("dtype",), (Rule("aad_*", "accuracy_aad", "", 0.01),))


# ------------------------------------------------------------------ few changes, and what is gated


def test_a_run_that_was_hardly_judged_passes_no_gate():
    """157 of the new run's 160 answers never ended their thinking: what three of them say is no comparison."""
    old, new = _labels([1] * 160), _labels([1] * 160)
    for key in list(new.tasks["t"].documents)[3:]:
        new.tasks["t"].documents[key].values.clear()
    new.name = "new"
    result = check_gate(old, new, Gate())
    (found,) = result.mismatches
    assert result.exit_code == 3 and found.what == "documents" and "157 of 160 documents have a value" in found.detail
    allowed = check_gate(old, new, Gate(allow=("documents",)))
    assert allowed.exit_code == 0 and "157 documents have a value in one run only" in allowed.notes[0]


def test_two_verdicts_that_become_ties_are_no_regression():
    """Was: REGRESSION with a lower bound of -8e305."""
    old = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 160)
    new = old.copy()
    new[np.flatnonzero(old == 1)[:2]] = 0.5
    result = simulation.check(old, new)
    (one,) = result.compared
    assert one.p == pytest.approx(0.25) and result.exit_code == 0 and one.test == "exact sign flips"
    assert -1 <= one.low < one.difference < 0 < one.high <= 1


def test_a_net_loss_of_25_of_500_is_found():
    assert simulation.check(*simulation.fixed_pair(45)).exit_code == 1


def test_false_alarms_with_few_changes():
    """A sample of the 4,000 pairs that ``python -m tests.report.gate_simulation`` goes through."""
    assert simulation.false_alarms(120)["all"] <= 0.03


@pytest.mark.grid
def test_false_alarms_and_power_over_thousands_of_pairs():
    alarms = simulation.false_alarms(4000)
    shares = {name: simulation.found(1000, 500, changed) for name, changed in simulation.LOSSES.items()}
    print(alarms, shares)
    assert alarms["all"] <= 0.03 and shares["35 worse, 10 better"] >= 0.95


def _with_rivals() -> Run:
    run = _labels([1] * 20, accuracy_greedy=[1] * 20, accuracy_aad=[1] * 20, length_aad=[7] * 20)
    task = run.tasks["t"]
    task.higher_is_better.pop("length_aad")
    task.metrics |= {"macro_f1_aad,none": (0.5, None), "accuracy_aad,none": (1.0, None)}
    for document in task.documents.values():
        document.answers = {"aad": AnswerText(("x",)), "greedy": AnswerText(("y",))}
    return run


def test_the_candidates_metrics_are_gated_and_everything_else_is_listed():
    result = check_gate(_with_rivals(), _with_rivals(), Gate())
    assert [one.metric for one in result.compared] == ["a", "accuracy_aad"]
    why = {one.metric: one.why for one in result.not_gated}
    assert why["accuracy_greedy"] == "it is about greedy, a rival: name it in the gate file to gate it"
    assert why["length_aad"] == "nothing says whether more of it is better: give it a direction"
    assert why["macro_f1_aad"] == "there is no value per document, only a figure of the whole task"
    text = gate_text(result)
    assert "not gated: t: accuracy_greedy: it is about greedy" in text
    named = check_gate(_with_rivals(), _with_rivals(), Gate(rules=(Rule(metric="accuracy_greedy"),)))
    assert [one.metric for one in named.compared] == ["accuracy_greedy"]


def test_a_metric_that_the_gate_file_names_and_that_cannot_be_gated_is_an_error_not_silence():
    rules = (Rule(metric="accuracy_aad"), Rule(metric="macro_f1_aad", direction="higher"))
    result = check_gate(_with_rivals(), _with_rivals(), Gate(rules=rules))
    assert result.exit_code == 3
    assert result.mismatches[0].detail == (
        "macro_f1_aad, which the gate file names, has no value per document in t, only a figure of the whole task in run"
    )


def test_runs_whose_intervals_are_of_different_methods_are_not_mixed():
    old, new = (simulation.run_of(name, np.ones(20)) for name in ("old", "new"))
    new.tasks["task"].comparisons[0].figures["ci_method"] = "Gaffke"
    result = check_gate(old, new, Gate())
    assert result.exit_code == 3 and result.mismatches[0].what == "method"
    assert "an older method, not named in old, Gaffke in new" in result.mismatches[0].detail
    assert check_gate(old, new, Gate(allow=("method",))).exit_code == 0


def test_verdicts_and_rewards_are_found_where_the_results_say(tmp_path):
    """lm-eval's output and the judged run lie apart: the results name the folder."""
    folders = {}
    for name, shift in (("old", 0.0), ("new", -1.0)):
        root = write_run(tmp_path / name, texts(40, 60), p_of=lambda r, n: r.random())
        (answers,) = root.rglob("answers.jsonl")
        ids = [json.loads(line)["id"] for line in answers.read_text().splitlines()]
        scores = [{"id": number, "reward_aad": i % 7 + shift, "reward_greedy": 1.0} for i, number in enumerate(ids)]
        answers.with_name("scores.jsonl").write_text("".join(json.dumps(one) + "\n" for one in scores))
        elsewhere = tmp_path / "elsewhere" / name / "planted" / "now"
        elsewhere.parent.mkdir(parents=True)
        answers.parent.rename(elsewhere)
        (results,) = root.rglob("results_*.json")
        content = json.loads(results.read_text())
        content["configs"] = {"planted": {"metadata": {"judged_folder": str(elsewhere)}}}
        results.write_text(json.dumps(content))
        folders[name] = root / "out"
    old, new = read_run(str(folders["old"])), read_run(str(folders["new"]))
    assert not old.problems
    found = {one.metric: one for one in check_gate(old, new, Gate()).compared}
    assert set(found) == {"reward_aad", "win_rate_vs_greedy"}
    reward = found["reward_aad"]
    assert reward.difference == -1 and reward.outcome == "regression" and -7 <= reward.low < -1 < reward.high <= 0
    again = read_run(str(folders["new"]))
    again.tasks["planted"].scored_by = "reward:other 1234"
    refused = check_gate(old, again, Gate(rules=(Rule(metric="reward_aad"),)))
    assert refused.exit_code == 3 and refused.mismatches[0].what == "judge"
    assert refused.mismatches[0].detail.endswith(" in out, reward:other 1234 in out")
    assert old.tasks["planted"].scored_by == old.tasks["planted"].comparisons[0].judge_mark != ""
    (tmp_path / "elsewhere" / "old").rename(tmp_path / "gone")
    assert "which is not there: pass the folder they are in" in read_run(str(folders["old"])).problems[0]


# ------------------------------------------------------------------ stock tasks

_ASKS = {"until": []}


def _stock(root, questions, requests):
    """A stock task's run in which all is right, and one in which all is wrong."""
    old = write_stock_run(root / "old", questions, requests, [1.0] * len(questions))
    new = write_stock_run(root / "new", questions, requests, [0.0] * len(questions))
    return read_run(str(old)), read_run(str(new))


def test_a_field_that_only_names_the_kind_of_question_makes_no_cluster(tmp_path):
    """copa's "question" is "cause" or "effect": its documents were two prompts to the gate, n = 2."""
    questions = [("cause", "effect")[i % 2] for i in range(40)]
    asked = [[[f"Man {i} slipped, so", f" he fell {n}"] for n in (1, 2)] for i in range(40)]
    result = check_gate(*_stock(tmp_path, questions, asked), Gate())
    assert (result.compared[0].n, result.exit_code) == (40, 1)
    documents = list(read_run(str(tmp_path / "old")).tasks["stock"].documents.values())
    assert documents[3].prompt_text == "Man 3 slipped, so"  # what was asked, not its kind


def test_equal_prompts_with_other_continuations_are_other_questions(tmp_path):
    """blimp asks with an empty prompt, and scores two sentences."""
    asked = [[["", f"Sentence {i}."], ["", f"Sentences {i}."]] for i in range(40)]
    result = check_gate(*_stock(tmp_path, [f"q{i}" for i in range(40)], asked), Gate())
    assert result.compared[0].n == 40


def test_equal_requests_are_one_draw(tmp_path):
    asked = [[[f"Question {i // 10}", _ASKS]] for i in range(40)]
    result = check_gate(*_stock(tmp_path, [f"q{i}" for i in range(40)], asked), Gate())
    assert result.compared[0].n == 4


def test_one_question_about_many_pictures_is_as_many_prompts(tmp_path):
    """60 documents that ask "Describe the picture." were one prompt to the gate, n = 1."""
    words = "Describe the picture."
    asked = [[[words, _ASKS, {"visual": [f"<PIL.Image at 0x{i}>"]}]] for i in range(60)]
    result = check_gate(*_stock(tmp_path, [words] * 60, asked), Gate())
    assert (result.compared[0].n, result.exit_code) == (60, 1)
    for name in ("old", "new"):  # 20 pictures, each shown by three documents
        shown = [
            {"name": "data", "digest": str(i % 20), "width": 1, "height": 1, "data": "data:image/"} for i in range(60)
        ]
        lines = [{"number": i, "prompt_hash": sha(words), "pictures": [one]} for i, one in enumerate(shown)]
        (tmp_path / name / "pictures_stock_rank0.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    result = check_gate(*(read_run(str(tmp_path / name)) for name in ("old", "new")), Gate())
    assert result.compared[0].n == 20


def test_newer_results_without_samples_are_not_compared_by_older_samples(tmp_path):
    """Tuesday ran without --log_samples: its figures stood beside Monday's documents, and the gate passed."""
    asked = [[[f"q{i}", _ASKS]] for i in range(40)]
    questions = [f"q{i}" for i in range(40)]
    old = write_stock_run(tmp_path / "old", questions, asked, [1.0] * 40)
    new = write_stock_run(tmp_path / "new", questions, asked, [1.0] * 40)
    tuesday = "2026-11-21T10-00-00.000000"
    write_stock_run(new, questions, asked, [0.0] * 40, stamp=tuesday, is_logged=False)
    late = read_run(str(new))
    said = f"the newest results are of {tuesday}, the newest samples of 2026-11-20T10-00-00.000000"
    assert late.problems == [f"stock: {said}: these samples are left out; run lm-eval again with --log_samples"]
    assert not late.tasks["stock"].documents
    for pair in ((read_run(str(old)), late), (late, read_run(str(old)))):
        result = check_gate(*pair, Gate(allow=("documents",), rules=(Rule("stock", "acc"),)))
        assert result.exit_code == 3 and [one.detail for one in result.mismatches] == [f"{said} in new"]
    write_stock_run(new, questions, asked, [0.0] * 40, stamp="2026-11-22T10-00-00.000000")
    assert check_gate(read_run(str(old)), read_run(str(new)), Gate()).exit_code == 1


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule("mistyped"), "no such task, which the gate file names, in run; there are t"),
        (Rule("mistyped", "acc*"), "no such task, which the gate file names, in run; there are t"),
        (Rule("t", "reward*"), "no metric in run that the gate file's reward* could gate"),
    ],
)
def test_an_entry_that_names_a_task_and_covers_nothing_is_no_silence(rule, said):
    result = check_gate(_with_rivals(), _with_rivals(), Gate(rules=(Rule("t", "accuracy_aad"), rule)))
    assert result.exit_code == 3 and [one.detail for one in result.mismatches] == [said]
    patterns = Gate(rules=(Rule("t", "accuracy_aad"), Rule("other_*", "*")))
    assert check_gate(_with_rivals(), _with_rivals(), patterns).exit_code == 0
