"""``aad alpaca-eval export`` and ``lint``: a good submission passes, every planted fault is named."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from aad_plugin.alpaca.instructions import InstructionSet
from aad_plugin.alpaca.layout import Layout
from aad_plugin.alpaca.leaderboard import COLUMNS, is_extreme, read_csv
from aad_plugin.alpaca.lint import lint
from aad_plugin.alpaca.outputs import check_outputs
from aad_plugin.errors import ConfigError
from tests.alpaca.made import outputs, references, write
from tests.alpaca.submissions import JUDGE, NAME, change_rows, files, good, published
from tests.public_data import DATA, needs_public_data

pytestmark = needs_public_data


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return good(tmp_path_factory.mktemp("good"))


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "pr")
    return Layout(tmp_path / "pr")


def edit_csv(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_good_submission_passes(aad, made):
    done = aad("lint", made.root)
    assert done.exit_code == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "0 errors, 1 warnings"
    assert "no length-controlled win rate; export with --df-gamed FILE computes it" in done.stdout
    assert aad("lint", made.root, "--strict").exit_code == 3


def test_the_files_are_those_of_a_pull_request(made):
    found = {path.relative_to(made.root).as_posix() for path in made.root.rglob("*") if path.is_file()}
    assert found == {
        "PULL_REQUEST.md",
        f"src/alpaca_eval/models_configs/{NAME}/configs.yaml",
        f"src/alpaca_eval/models_configs/{NAME}/prompt.txt",
        f"src/alpaca_eval/leaderboards/data_AlpacaEval_2/{JUDGE}_leaderboard.csv",
        f"results/{NAME}/model_outputs.json",
        f"results/{NAME}/{JUDGE}/annotations.json",
    }
    label = f"{JUDGE}: a custom judge, NOT AlpacaEval 2's official one"
    assert label in made.config(NAME).read_text() and label in (made.root / "PULL_REQUEST.md").read_text()
    config = yaml.safe_load(made.config(NAME).read_text())
    assert list(config) == [NAME] and config[NAME]["fn_completions"] is None
    ours = read_csv(made.leaderboard(JUDGE))[NAME]
    theirs = read_csv(DATA / "alpaca_eval_2_leaderboard.csv")["OpenHermes-2.5-Mistral-7B"]
    for column in COLUMNS[:7]:
        assert float(ours[column]) == pytest.approx(float(theirs[column]), abs=1e-9), column
    assert ours["mode"] == "community" and ours["avg_length"] == theirs["avg_length"]


# ---------------------------------------------------------------- planted faults


def empty(copy):
    change_rows(copy.outputs(NAME), lambda rows: [rows[0] | {"output": "  "}, *rows[1:]])


def constant(copy):
    change_rows(copy.outputs(NAME), lambda rows: [row | {"output": "Always this."} for row in rows])


def truncated(copy):
    change_rows(copy.outputs(NAME), lambda rows: [row | {"output": row["output"] + " and so on" * 60} for row in rows])


def reordered(copy):
    change_rows(copy.outputs(NAME), lambda rows: [rows[1], rows[0], *rows[2:]])


def foreign(copy):
    change_rows(copy.outputs(NAME), lambda rows: [rows[0] | {"instruction": "Another one?"}, *rows[1:]])


def duplicated(copy):
    change_rows(copy.outputs(NAME), lambda rows: [*rows[:-1], rows[0]])


def too_few(copy):
    change_rows(copy.outputs(NAME), lambda rows: rows[:700])


def a_fifth_field(copy):
    change_rows(copy.outputs(NAME), lambda rows: [row | {"id": 1} for row in rows])


def not_text(copy):
    change_rows(copy.outputs(NAME), lambda rows: [rows[0] | {"output": 7}, *rows[1:]])


def half_a_character(copy):
    change_rows(copy.outputs(NAME), lambda rows: [rows[0] | {"output": "half \ud800"}, *rows[1:]])


def other_generator(copy):
    change_rows(copy.outputs(NAME), lambda rows: [rows[0] | {"generator": "other"}, *rows[1:]])


def wrong_dataset(copy):
    change_rows(copy.outputs(NAME), lambda rows: [rows[0] | {"dataset": "koala"}, *rows[1:]])


def torn(copy):
    copy.outputs(NAME).write_text(copy.outputs(NAME).read_text()[:-100])


def rows_lost(copy):
    change_rows(copy.annotations(NAME, JUDGE), lambda rows: rows[:-100])


def refused(copy):
    said = {"preference": None, "raw_completion": {"text": "I'm sorry, I can't compare these."}}
    change_rows(copy.annotations(NAME, JUDGE), lambda rows: [row | said for row in rows[:40]] + rows[40:])


def constant_judge(copy):
    change_rows(copy.annotations(NAME, JUDGE), lambda rows: [row | {"preference": 2.0} for row in rows])


def other_reference(copy):
    change_rows(copy.annotations(NAME, JUDGE), lambda rows: [rows[0] | {"output_1": "made up"}, *rows[1:]])


def other_outputs(copy):
    change_rows(copy.annotations(NAME, JUDGE), lambda rows: [rows[0] | {"output_2": "made up"}, *rows[1:]])


def no_columns(copy):
    change_rows(copy.annotations(NAME, JUDGE), lambda rows: [{"instruction": r["instruction"]} for r in rows])


def disguised(copy):
    official = copy.results / NAME / "weighted_alpaca_eval_gpt4_turbo"
    copy.annotations(NAME, JUDGE).parent.rename(official)


def forbidden(copy):
    (copy.results / NAME / "reference_outputs.json").write_text("[]")


def other_key(copy):
    copy.config(NAME).write_text(copy.config(NAME).read_text().replace(f"{NAME}:", "Hermes:"))


def no_prompt(copy):
    copy.config(NAME).with_name("prompt.txt").unlink()


def prompt_without_place(copy):
    copy.config(NAME).with_name("prompt.txt").write_text("Answer!")


def a_key(copy):
    with copy.config(NAME).open("a") as file:
        file.write("# sk-abcdefghijklmnopqrstuvwxyz\n")


def no_config(copy):
    shutil.rmtree(copy.config(NAME).parent)


def better_row(copy):
    edit_csv(copy.leaderboard(JUDGE), "10.3404157057", "20.3404157057")


def no_row(copy):
    edit_csv(copy.leaderboard(JUDGE), NAME, "somebody")


def extreme(copy):
    path = copy.leaderboard(JUDGE)
    path.write_text(path.read_text().rstrip("\n").rstrip(",") + ",60.0,0.1\n")


FAULTS = [
    (empty, "[empty-output] results/{n}/model_outputs.json: 1 outputs are empty, first: row 1"),
    (constant, "[constant-output] results/{n}/model_outputs.json: 805 of 805 outputs are the same text, \"Always this.\""),
    (truncated, "[truncated-output] results/{n}/model_outputs.json: 8"),
    (reordered, "[order] results/{n}/model_outputs.json: rows must stand in the order of the instructions"),
    (foreign, "[foreign-instruction] results/{n}/model_outputs.json: 1 of 805 rows answer instructions that are not in"),
    (duplicated, "[duplicate] results/{n}/model_outputs.json: 1 instructions are answered twice; first: row 1"),
    (too_few, "[rows-missing] results/{n}/model_outputs.json: expected 805 instructions, 105 are missing"),
    (a_fifth_field, "[fields] results/{n}/model_outputs.json: row 1 must hold exactly dataset, instruction, output, "),
    (not_text, "[not-text] results/{n}/model_outputs.json: row 1: output must be a text, got 7"),
    (half_a_character, "[not-text] results/{n}/model_outputs.json: row 1: output must be a text, got \"half \\ud800\""),
    (other_generator, "[generator] results/{n}/model_outputs.json: generator must be '{n}' in every row, got 'other' in 1"),
    (wrong_dataset, "[dataset] results/{n}/model_outputs.json: dataset must be 'helpful_base', got 'koala'"),
    (torn, "[json] results/{n}/model_outputs.json: "),
    (rows_lost, "[rows-lost] results/{n}/{j}/annotations.json: 100 of 805 instructions were lost on the way to the judge"),
    (refused, "[judge-refusal] results/{n}/{j}/annotations.json: 40 of 805 rows have no preference, first: row 1; in 40 "),
    (constant_judge, "[constant-preference] results/{n}/{j}/annotations.json: every preference is 2.0"),
    (other_reference, "[reference-output] results/{n}/{j}/annotations.json: output_1 is not the reference's output in 1 "),
    (other_outputs, "[judged-output] results/{n}/{j}/annotations.json: output_2 differs from model_outputs.json in 1 rows"),
    (no_columns, "[annotation-columns] results/{n}/{j}/annotations.json: row 1: expected the columns instruction, annot"),
    (disguised, "got 'aad_test_judge' in 805 rows; another judge's verdicts are not the official ones"),
    (forbidden, "[forbidden-file] results/{n}/reference_outputs.json: upstream's CI refuses this file"),
    (other_key, "[config] src/alpaca_eval/models_configs/{n}/configs.yaml: its only top key must be '{n}' as its folder"),
    (no_prompt, "[prompt] src/alpaca_eval/models_configs/{n}/configs.yaml: prompt_template names '{n}/prompt.txt', which"),
    (prompt_without_place, "[prompt] src/alpaca_eval/models_configs/{n}/prompt.txt: the prompt must hold {{instruction}}"),
    (a_key, "[secret] src/alpaca_eval/models_configs/{n}/configs.yaml: the file holds what looks like an API key"),
    (no_config, "[missing-file] src/alpaca_eval/models_configs/{n}/configs.yaml: the file is missing"),
    (better_row, "{j}_leaderboard.csv: {n}: win_rate is 20.3"),
    (no_row, "{j}_leaderboard.csv: expected a row '{n}'"),
    (extreme, "[extreme-length-control]"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "named"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_named(aad, copy, spoil, named):
    spoil(copy)
    done = aad("lint", copy.root, "--strict")
    assert done.exit_code == 3
    assert named.format(n=NAME, j=JUDGE) in done.stdout, done.stdout
    if spoil is not truncated:
        assert aad("lint", copy.root).exit_code == 3


def test_upstreams_own_published_verdicts_pass_the_row_rules(tmp_path):
    for model in ("OpenHermes-2.5-Mistral-7B", "Qwen-14B-Chat"):
        rows = [
            {"dataset": r["dataset"], "instruction": r["instruction"], "output": r["output_2"], "generator": model}
            for r in published(model)
        ]
        assert check_outputs(rows, InstructionSet.official(), model, model) == []


def test_the_extreme_rule_is_upstreams():
    # 10 % raw: max(10 + 22.5, 20) = 32.5; 90 % raw: max(92.5, 100) = 100
    assert is_extreme(10, 32.6) and not is_extreme(10, 32.4) and not is_extreme(90, 99.9)


def test_a_rehearsal_on_other_instructions_passes_and_is_called_so(aad, own_set, tmp_path):
    rows = outputs("mine")
    made = write(tmp_path / "model_outputs.json", rows)
    judged = [
        {"instruction": r["instruction"], "output_1": ref["output"], "generator_1": "plain", "output_2": r["output"],
         "generator_2": "mine", "annotator": JUDGE, "preference": 1 + n / 20}
        for n, (r, ref) in enumerate(zip(rows, references(), strict=True))
    ]  # fmt: skip
    given = [
        "--instructions",
        own_set,
        "--output",
        tmp_path / "pr",
        "--pretty-name",
        "M",
        "--link",
        "https://example.org",
    ]
    annotations = write(tmp_path / "annotations.json", judged)
    assert aad("export", "--outputs", made, "--annotations", annotations, *given).exit_code == 0
    done = aad("lint", tmp_path / "pr", "--instructions", own_set)
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == "0 errors, 1 warnings"
    assert "[other-instructions] results/mine: not AlpacaEval's instructions: 12 others: a rehearsal" in done.stdout
    assert "A rehearsal: alpaca_eval takes results on its own 805" in (tmp_path / "pr" / "PULL_REQUEST.md").read_text()
    assert aad("lint", tmp_path / "pr").exit_code == 3  # they are not AlpacaEval's


def test_nothing_to_lint_is_said(aad, tmp_path, made):
    with pytest.raises(
        ConfigError, match=r"is no submission: expected the folders results/ and src/alpaca_eval/ in it"
    ):
        lint(tmp_path)
    with pytest.raises(ConfigError, match=f"has no folder 'x'; there are {NAME}"):
        lint(made.root, name="x")


# ---------------------------------------------------------------- export


def test_the_official_judges_row_goes_into_upstreams_own_table(aad, tmp_path):
    outputs, annotations = files(tmp_path / "made", "weighted_alpaca_eval_gpt4_turbo")
    given = ["export", "--outputs", outputs, "--annotations", annotations, "--output", tmp_path / "pr"]
    with pytest.raises(ConfigError, match=r"upstream has a leaderboard of weighted_alpaca_eval_gpt4_turbo, which a file "
                       "with one row would replace: pass --checkout"):  # fmt: skip
        raise aad(*given).exception
    with pytest.raises(ConfigError, match="is no clone of alpaca_eval"):
        raise aad(*given, "--checkout", tmp_path).exception
    checkout = Layout(tmp_path / "checkout")
    table = checkout.leaderboard("weighted_alpaca_eval_gpt4_turbo")
    table.parent.mkdir(parents=True)
    shutil.copy(DATA / "alpaca_eval_2_leaderboard.csv", table)
    assert aad(*given, "--checkout", checkout.root).exit_code == 0
    lines = Layout(tmp_path / "pr").leaderboard("weighted_alpaca_eval_gpt4_turbo").read_text().splitlines()
    assert lines[:-1] == table.read_text().splitlines() and lines[-1].startswith(f"{NAME},10.3404157057")
    assert "which its provider has since shut down" in (tmp_path / "pr" / "PULL_REQUEST.md").read_text()
    # figures of the official judge need their length-controlled rate
    assert "[length-control]" in aad("lint", tmp_path / "pr").stdout
    with table.open("a") as file:
        file.write(lines[-1] + "\n")
    with pytest.raises(ConfigError, match=f"has a row '{NAME}' already: pass outputs under another name"):
        raise aad(*given, "--checkout", checkout.root).exception


def test_what_does_not_belong_together_is_not_exported(aad, tmp_path):
    outputs, annotations = files(tmp_path / "made")
    given = ["export", "--outputs", outputs, "--annotations", annotations, "--output", tmp_path / "pr"]
    rows = json.loads(outputs.read_text())
    for changed, message in (
        (rows[:100], r"expected 805 instructions, 705 are missing"),
        ([rows[1], rows[0], *rows[2:]], "rows must stand in the order of the instructions"),
        ([rows[0] | {"instruction": "?"}, *rows[1:]], "1 of 805 rows answer instructions that are not in the set"),
        ([rows[0] | {"output": None}, *rows[1:]], "output must be a text, got null"),
        ([row | {"generator": "a/b"} for row in rows], "a name is a folder's and a table row's name"),
        ([row | {"generator": "other"} for row in rows], "generator_2 must be 'other' as its folder is, got"),
    ):
        outputs.write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=message):
            raise aad(*given).exception
    outputs.write_text(json.dumps(rows[:100]))
    annotations.write_text(json.dumps(json.loads(annotations.read_text())[:100]))
    with pytest.raises(ConfigError, match="a part of AlpacaEval: 100 of 805 instructions is no leaderboard submission"):
        raise aad(*given, "--partial").exception
    with pytest.raises(ConfigError, match="leave --df-gamed out; there is no length-controlled win rate then"):
        raise aad(*given, "--partial", "--df-gamed", annotations).exception
    assert not (tmp_path / "pr").exists()
    with pytest.raises(ConfigError, match=r"--to must be alpaca-eval or every-eval-ever, got 'x'"):
        raise aad(*given, "--to", "x").exception
