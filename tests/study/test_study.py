"""A whole toy study: what it decodes, what it counts, what it writes, and how it goes on after a stop."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest

from aad_plugin import AlignedPair, answer
from aad_plugin.cli.pair_options import NamedPair
from aad_plugin.errors import ConfigError
from aad_plugin.sources.arguments import parse_model_args
from aad_plugin.study import decoding as study_decoding
from aad_plugin.study import writing
from aad_plugin.study.arms import build_arms
from aad_plugin.study.cells import Cell, extra_cells, samples_of, sweep_cells, table_cells
from aad_plugin.study.decoding import Decoder
from aad_plugin.study.plan import keep_plan
from aad_plugin.study.rows import FILE, Rows, StudyStopped
from tests.pairs import toy_pair
from tests.study.conftest import aad, arguments, figures, kept

TABLES = ("table", "comparisons", "sweep_alpha", "sweep_eft_scale", "best_of_n")
PLOTS = ("reward_vs_passes", "best_of_n", "best_of_n_vs_passes", "sweep_alpha", "sweep_eft_scale")


@pytest.fixture
def no_tables(monkeypatch):
    """Tables are another test's matter, and most of a toy study's time."""
    monkeypatch.setattr(writing, "write_study", lambda folder: [])


def test_every_table_and_plot_is_written(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {"table.md", "study.json", "plan.json", FILE}
    assert names >= {f"{name}{end}" for name in TABLES for end in (".csv", ".tex")}
    assert names >= {f"{name}{end}" for name in PLOTS for end in (".svg", ".png")}
    for name in TABLES:
        assert r"\toprule" in (finished.folder / f"{name}.tex").read_text()
    report = json.loads((finished.folder / "study.json").read_text())
    assert report["complete"] and report["missing"] == []
    assert "PARTIAL" not in (finished.folder / "table.md").read_text()


def test_rows_state_n_and_seeds(finished):
    rows = {row["row"]: row for row in figures(finished.folder)["table"]}
    assert list(rows)[:7] == [
        "greedy reference", "greedy policy", "one sample", "best_of_2", "best_of_2, picker = oracle", "EFT, scale 1.5",
        "AAD, alpha 0.1",
    ]  # fmt: skip
    assert {row["n"] for row in rows.values()} == {"8", "5"}
    sampled = {name for name, row in rows.items() if row["seeds"] == "1, 2, 3"}
    assert sampled == {"one sample", "best_of_2", "best_of_2, picker = oracle", "AAD, sampled"}
    assert {"AAD, wrong reference", "AAD, 2 beams"} <= set(rows)


def test_the_splits_share_no_prompt(finished):
    plan = finished.plan
    assert len(plan.table) == 8 and len(plan.dev) == 4 and not set(plan.table) & set(plan.dev)


def test_answers_are_those_of_answer(finished):
    """The pool's first two samples under a seed are what best_of_2 draws, and picks among."""
    plan, reader = finished.plan, finished.reader
    pair = NamedPair(parse_model_args(finished.inputs.model_args)).load()
    for cell in table_cells(plan)[:4]:
        strategy = cell.decoding.settings.strategy
        texts = answer(pair, list(plan.table), strategy=strategy, max_new_tokens=6, batch_size=3)
        assert texts == [one.text for one in reader.answers(cell.decoding, plan.table)]
    seed = plan.seeds[1]
    best = answer(pair, list(plan.table), strategy="best_of_2", seed=seed, max_new_tokens=6)
    pool = [reader.answers(samples_of(plan, seed), plan.table, number) for number in (0, 1)]
    assert best == [max(pair_of, key=lambda one: one.implicit).text for pair_of in zip(*pool, strict=True)]


def test_wrong_reference_beams_and_noise_change_answers(finished):
    reader, plan = finished.reader, finished.plan
    aad_cell = next(cell for cell in table_cells(plan) if cell.decoding.settings.strategy == "aad")
    plain = [one.text for one in reader.answers(aad_cell.decoding, plan.table[:5])]
    greedy = [one.text for one in reader.answers(table_cells(plan)[1].decoding, plan.table[:5])]
    ways = {
        cell.decoding.mark: [a.text for a in reader.answers(cell.decoding, cell.prompts)] for cell in extra_cells(plan)
    }
    assert len(ways) == 5  # wrong reference, three seeds, beams
    wrong, *drawn, beams = ways.values()
    assert wrong == greedy  # the policy as its own reference leaves nothing but its favourite
    assert plain != greedy and beams != plain
    assert len({tuple(texts) for texts in drawn}) == 3


@pytest.mark.parametrize("kind", ["two_models", "reference_plus_lora"])
def test_passes_are_the_rows_the_models_read(kind):
    pair = toy_pair(kind).pair
    seen = []
    base = pair.sides.policy
    hooks = [base.register_forward_pre_hook(lambda m, a, k: seen.append(len(k["input_ids"])), with_kwargs=True)]
    if kind == "two_models":
        reference = pair.sides.reference_model
        hooks += [
            reference.register_forward_pre_hook(lambda m, a, k: seen.append(len(k["input_ids"])), with_kwargs=True)
        ]
    pair.shortcuts = "none"
    before = sum(pair.sides.passes.values())
    answer(pair, ["one", "two", "three"], strategy="aad", max_new_tokens=5)
    assert sum(pair.sides.passes.values()) - before == sum(seen) == 3 * 5 * 2
    assert pair.sides.passes["policy"] == pair.sides.passes["reference"] == 15
    answer(pair, ["one", "two"], strategy="best_of_2", max_new_tokens=5)
    # Four samples of five tokens, whose first are drawn from one reading of each prompt; the reference reads each whole
    # answer once.
    assert pair.sides.passes["policy"] == 15 + 2 + 4 * 4 and pair.sides.passes["reference"] == 15 + 4
    for hook in hooks:
        hook.remove()


def test_passes_in_the_table(finished):
    arms = {arm.name: arm for arm in build_arms(finished.reader)[0]}
    steps = arms["greedy policy"].costs.policy_passes
    assert arms["greedy policy"].costs.reference_passes == 0 and arms["greedy reference"].costs.policy_passes == 0
    assert arms["best_of_2"].costs.policy_passes == pytest.approx(2 * arms["one sample"].costs.policy_passes)
    assert arms["best_of_2"].costs.reference_passes == 2  # each sample is read once by the picker
    assert arms["best_of_2, picker = oracle"].costs.reference_passes == 0
    # The same samples, decoded once; one of the two pickers is the pair.
    assert arms["best_of_2"].costs.cpu_seconds > arms["best_of_2, picker = oracle"].costs.cpu_seconds
    assert 4 <= steps <= 6 and arms["AAD, 2 beams"].costs.policy_passes > arms["AAD, alpha 0.1"].costs.policy_passes


def test_a_picker_that_is_the_oracle_is_labelled(finished, tmp_path, monkeypatch):
    # Only the plan's picker differs, so that the stored rows serve.
    content = json.loads((finished.folder / "plan.json").read_text())
    content["plan"]["picker"] = content["plan"]["oracle"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    (tmp_path / FILE).write_bytes((finished.folder / FILE).read_bytes())
    done = aad("study", "--output", str(tmp_path), "--tables-only")
    assert done.exit_code == 0, done.exception
    rows = figures(tmp_path)["table"]
    assert [row["note"] for row in rows if row["row"] == "best_of_2"] == [
        f"picker reward:{finished.inputs.reward}; picker = oracle"
    ]
    assert not any(row["row"] == "best_of_2, picker = oracle" for row in rows)
    assert {row["picker"] for row in figures(tmp_path)["best_of_n"]} == {
        f"reward:{finished.inputs.reward} (picker = oracle)"
    }


def test_a_stopped_study_goes_on_to_the_same_rows(finished, tmp_path, no_tables, monkeypatch):
    real, left = Decoder.decode, [7]

    def stops(self, batch):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(study_decoding.Decoder, "decode", stops)
    command = arguments(tmp_path / "out", **finished.inputs.options())
    assert aad(*command).exit_code != 0
    assert len((tmp_path / "out" / FILE).read_bytes().splitlines()) == 14  # seven batches and their scores
    content = (tmp_path / "out" / FILE).read_bytes()
    (tmp_path / "out" / FILE).write_bytes(content[:-40])  # a kill tears the last line
    monkeypatch.setattr(study_decoding.Decoder, "decode", real)
    done = aad(*command)
    assert done.exit_code == 0, done.exception
    assert kept(tmp_path / "out") == kept(finished.folder)


def test_a_finished_study_decodes_nothing_again(finished, no_tables, monkeypatch):
    monkeypatch.setattr(study_decoding.Decoder, "decode", lambda *_: pytest.fail("decoded again"))
    size = (finished.folder / FILE).stat().st_size
    assert aad(*arguments(finished.folder, **finished.inputs.options())).exit_code == 0
    assert (finished.folder / FILE).stat().st_size == size


def test_a_full_disk_is_one_line_and_loses_nothing(finished, tmp_path, no_tables, monkeypatch):
    real, room = os.write, [60_000]

    def write(descriptor, content):
        if len(content) > 2 and room[0] < len(content):
            part = real(descriptor, content[: room[0]]) if room[0] else 0
            room[0] = 0
            if part:
                return part
            raise OSError(28, "No space left on device")
        room[0] -= len(content)
        return real(descriptor, content)

    room[0] = 2500
    command = arguments(tmp_path / "out", **finished.inputs.options())
    monkeypatch.setattr(os, "write", write)
    done = aad(*command)
    assert isinstance(done.exception, StudyStopped)
    expected = (
        r"cannot write .*rows\.jsonl: No space left on device; (\d+) answers and (\d+) scores are kept there; make "
        "room and run the same command again"
    )
    assert int(re.fullmatch(expected, str(done.exception))[1]) > 0
    monkeypatch.setattr(os, "write", real)
    assert aad(*command).exit_code == 0
    assert kept(tmp_path / "out") == kept(finished.folder)


def test_tables_of_a_study_that_still_runs(finished, tmp_path):
    (tmp_path / "plan.json").write_bytes((finished.folder / "plan.json").read_bytes())
    content = (finished.folder / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(content[:8]) + content[8][:30])  # both greedy rows; the fifth batch is torn
    done = aad("study", "--output", str(tmp_path), "--tables-only")
    assert done.exit_code == 0, done.exception
    text = (tmp_path / "table.md").read_text()
    assert "## Oracle reward by decoding (PARTIAL)" in text and "* still missing: one sample; best_of_2; " in text
    assert [row["row"] for row in figures(tmp_path)["table"]] == ["greedy reference", "greedy policy"]
    assert not json.loads((tmp_path / "study.json").read_text())["complete"]


def test_another_study_in_the_folder_is_refused(finished):
    done = aad(*arguments(finished.folder, **finished.inputs.options(alpha=0.2)))
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception) == (
        f"{finished.folder} holds another study: alpha is 0.1 there, 0.2 here; give the same settings to go on with it, or "
        "pass another --output"
    )


def test_a_pair_that_moved_is_the_same_study(finished, tmp_path):
    # Was: resuming from another checkout was refused, as the adapter's path had changed.
    content = json.loads((finished.folder / "plan.json").read_text())
    models = {**content["models"], "parts": {"policy": "/elsewhere"}}
    (tmp_path / "plan.json").write_text(json.dumps({**content, "models": models}))
    keep_plan(tmp_path, finished.plan, content["models"])
    with pytest.raises(ConfigError, match=r"weights is .* there"):
        keep_plan(tmp_path, finished.plan, {**content["models"], "weights": "other"})


def test_another_run_in_the_folder_is_refused(finished):
    with Rows(finished.folder), pytest.raises(ConfigError, match="another study is running in "):
        Rows(finished.folder).__enter__()


def test_one_batch_is_one_cell_of_the_plan(finished):
    """Batches depend on the cell alone: prompts of like length together, samples of one prompt up to the batch size."""
    plan = finished.plan
    decoder = Decoder(AlignedPair.from_pretrained(**dict(p.split("=") for p in finished.inputs.model_args.split(","))),
                      None, max_new_tokens=6, batch_size=4)  # fmt: skip
    decoder.check([*plan.table, *plan.dev])
    cell = Cell(samples_of(plan, 1), plan.table[:2], 2, 12)
    batches = list(decoder.batches(cell))
    assert [(len(batch.prompts), batch.numbers) for batch in batches] == [
        (1, range(2, 6)), (1, range(6, 10)), (1, range(10, 12)),
    ] * 2  # fmt: skip
    assert sorted(key for batch in batches for key in batch.keys()) == sorted(cell.keys())
    once = list(decoder.batches(sweep_cells(plan)[0]))
    assert [len(batch.prompts) for batch in once] == [4]
    lengths = [len(prompt) for batch in decoder.batches(table_cells(plan)[0]) for prompt in batch.prompts]
    assert lengths == sorted(lengths, reverse=True)


def test_rewards_are_the_oracles(finished):
    from aad_plugin.judges.kinds.reward import RewardModel

    plan, reader = finished.plan, finished.reader
    way = table_cells(plan)[1].decoding
    texts = [one.text for one in reader.answers(way, plan.table)]
    expected = RewardModel.load(finished.inputs.reward).score(list(zip(plan.table, texts, strict=True)))
    np.testing.assert_allclose(reader.rewards(way, plan.table), expected, atol=1e-4)
