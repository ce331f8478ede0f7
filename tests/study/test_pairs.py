"""Several pairs in one table: `aad study --pairs`, its folders, what it says of a loss without a reference, mistakes."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from aad_plugin.cli.main import app
from aad_plugin.study import pair_table
from tests.pair.test_guide_loading import reward_model
from tests.toys import byte_tokenizer


@pytest.fixture(scope="module")
def words(checkpoints, tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("pairs")
    reward_model().save_pretrained(root / "oracle")
    byte_tokenizer().save_pretrained(root / "oracle")
    (root / "prompts.txt").write_text("\n".join(f"question {number}" for number in range(9)))
    rows = [{"prompt": f"ask {i}", "chosen": f"good {i}", "rejected": f"bad word {i}"} for i in range(4)]
    (root / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--num-prompts", "6", "--num-dev", "3", "--max-new-tokens", "4", "--alphas", "0.1,0.5"]
    files = ["--prompts", str(root / "prompts.txt"), "--preferences", str(root / "held.jsonl")]
    return ["study", *files, "--oracle", f"reward:{root / 'oracle'}", *options]


def run(words: list[str]):
    return CliRunner().invoke(app(), words, catch_exceptions=True)


def test_one_table_of_two_policies_goes_on_and_is_written_again(words, checkpoints, tmp_path, monkeypatch):
    adapter, other = tmp_path / "orpo", str(checkpoints.sft_adapter)
    adapter.mkdir()
    for file in checkpoints.adapter.iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    (adapter / "README.md").write_text("This model was trained with ORPO, a method introduced in a paper")
    asked = [*words, "--pairs", f"one={adapter}", "--pairs", f"two={other}", "--reference", str(checkpoints.base),
             "--output", str(tmp_path / "out")]  # fmt: skip
    first = run(asked)
    assert first.exit_code == 0, first.output
    text = (tmp_path / "out/pairs.md").read_text()
    assert "one: trained by ORPO, which knows no reference: the model it started from stands in for one" in text
    assert "PARTIAL" not in text
    rows = list(csv.DictReader((tmp_path / "out/pairs.csv").open()))
    assert [row["pair"] for row in rows] == ["one", "two"]
    assert all(0 <= float(row["win_rate"]) <= 1 and 0 <= float(row["accuracy"]) <= 1 for row in rows)
    kept = (tmp_path / "out/one/rows.jsonl").read_bytes()
    assert run(asked).exit_code == 0
    assert (tmp_path / "out/one/rows.jsonl").read_bytes() == kept, "nothing is decoded twice"
    (tmp_path / "out/pairs.md").unlink()
    assert run(["study", "--output", str(tmp_path / "out"), "--tables-only"]).exit_code == 0
    assert (tmp_path / "out/pairs.md").read_text() == text
    again = run([*asked[:-2], "--pairs", f"three={other}", "--output", str(tmp_path / "out")])
    assert "holds a table of ['one', 'two']" in str(again.exception or again.output)
    monkeypatch.setattr(pair_table, "best_on_dev", lambda plan, rows: (0.77, {}))  # an alpha not decoded yet
    assert run(["study", "--output", str(tmp_path / "out"), "--tables-only"]).exit_code == 0
    assert "PARTIAL: not finished: one, two" in (tmp_path / "out/pairs.md").read_text()


@pytest.mark.parametrize(("given", "said"), [
    (["--pairs", "a=nowhere/x"], "no folder 'nowhere/x'"),
    (["--pairs", "{adapter}"], "got one: name at least two folders"),
    (["--pairs", "a={adapter},a={adapter}"], "the name 'a' stands for two pairs"),
    (["--pairs", "a={adapter}", "--policy", "p"], "leave --policy out"),
])  # fmt: skip
def test_mistakes_are_one_line(words, checkpoints, tmp_path, given, said):
    given = [word.format(adapter=checkpoints.adapter) for word in given]
    found = run([*words, *given, "--reference", str(checkpoints.base), "--output", str(tmp_path / "out")])
    assert found.exit_code != 0
    assert said in str(found.exception or "") + found.output
