"""A cheap judge first, a dear one where it is unsure and on a random share."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aad_plugin.errors import ConfigError, JudgeError
from aad_plugin.judges.items import Comparison, Verdict
from aad_plugin.judges.sitting.cascading import cascade, write_cascade
from aad_plugin.judges.statistics.cascade import chances_of_asking, choose, corrected, doubt
from aad_plugin.texts.messages import digest
from tests.judges import cascade_grid
from tests.judges.conftest import made_up


class _Planted:
    """A judge in this process whose p is a function of the question; counts what it is asked."""

    kind, both_orders, template_hash, price = "pairwise", False, "", None

    def __init__(self, name, verdict):
        self.name, self.verdict, self.asked = name, verdict, 0
        self.fingerprint = digest(name)

    def prepare(self, sitting):
        pass

    def rule(self, questions, sitting):
        from aad_plugin.judges import Ruling

        for question in questions:
            self.asked += 1
            p = self.verdict(int(question.messages[0]["content"].split()[1].rstrip("?")))
            sitting.record(Ruling(question.key, p=p) if p is not None else Ruling(question.key, reason="refusal"))


def test_the_estimate_by_hand():
    # z: 0.8 + (1 - 0.8) / 0.5 = 1.2; 0.6 alone; 0.2 + (0 - 0.2) / 1 = 0; the dear judge's 1 where the cheap one has none
    found = corrected([0.8, 0.6, 0.2, None], [1.0, None, 0.0, 1.0], [0.5, 0.5, 1.0, 1.0])
    assert found.value == pytest.approx((1.2 + 0.6 + 0.0 + 1.0) / 4)


def test_chances_follow_the_doubt_and_sum_to_the_share():
    chances = chances_of_asking([0.5, 0.5, 0.1, 0.1], 0.5, least=0.05)
    assert chances == pytest.approx([5 / 6, 5 / 6, 1 / 6, 1 / 6]) and chances.mean() == pytest.approx(0.5)
    assert chances_of_asking([0.5, 0.1, 0.1, 0.1], 0.5, least=0.1) == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    assert chances_of_asking([0.3, 0.2], 1.0).tolist() == [1, 1]
    torn = Verdict("1", "1", "j", p=0.5, orders=(0.9, 0.1))
    assert doubt(torn) == doubt(Verdict("2", "2", "j", reason="refusal")) > doubt(Verdict("3", "3", "j", p=0.1)) > 0.1


def test_a_draw_repeats_and_identical_answers_need_nobody():
    verdicts = [Verdict(str(at), str(at), "j", p=at % 2, orders=(at % 2,)) for at in range(200)]
    verdicts.append(Verdict("same", "same", "j", p=0.5))
    one, again, other = (choose(verdicts, 0.3, seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert one.chances[-1] == 1.0 and sum(one.asked) == pytest.approx(60, abs=25)


def test_what_the_cheap_judge_leaves_unjudged_is_asked_for_certain():
    verdicts = [Verdict(str(at), str(at), "j", p=0.2, orders=(0.2, 0.2)) for at in range(80)]
    verdicts += [Verdict(f"x{at}", f"x{at}", "j", reason="refusal", rulings=("a", "b")) for at in range(20)]
    found = choose(verdicts, 0.5)
    assert found.chances[80:] == (1.0,) * 20 and all(found.asked[80:])
    assert sum(found.chances) == pytest.approx(50)
    few = choose(verdicts, 0.15)  # even more failed than the share: the random share of the others stays
    assert few.chances[80:] == (1.0,) * 20 and few.chances[:80] == pytest.approx((0.1,) * 80)


def test_a_cheap_judge_that_fails_where_answers_are_bad_leaves_the_estimate_unbiased():
    items = made_up(400)
    cheap = _Planted("cheap", lambda n: None if n % 4 == 0 else 0.9)
    dear = _Planted("dear", lambda n: float(n % 4 != 0))
    values = [cascade(items, cheap, dear, share=0.4, seed=seed, progress=False)[1]["win_rate"] for seed in range(20)]
    assert np.mean(values) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("share", "least", "message"),
    [(0.0, 0.1, "share of the items lies in"), (1.5, 0.1, "share of the items"), (0.2, 0.3, "random share lies above 0")],
)  # fmt: skip
def test_shares_out_of_range_are_one_line(share, least, message):
    with pytest.raises(ConfigError, match=message):
        chances_of_asking([0.3], share, least)


def test_a_run_asks_the_dear_judge_about_its_share_names_its_source_and_goes_on(tmp_path):
    items = made_up(300)
    cheap = _Planted("cheap", lambda n: 0.9 if n % 3 else 0.45)  # says 0.75 on average, and is wrong about every third
    dear = _Planted("dear", lambda n: float(n % 3 != 0))
    rows, figures = cascade(items, cheap, dear, tmp_path, share=0.5, progress=False)
    assert cheap.asked == 300 and dear.asked == figures["n_asked"] == sum(row.asked for row in rows)
    assert 100 < dear.asked < 200
    low, high = figures["ci95"]
    assert low <= 2 / 3 <= high and high - low < 0.2 and figures["cheap_win_rate"] == pytest.approx(0.75)
    assert (
        "dear would give all 300 items" in figures["source"] and "unbiased whatever cheap is worth" in figures["source"]
    )
    assert {row.source for row in rows} == {"cheap", "dear"}
    assert all((row.source == "dear") == row.asked for row in rows)
    again = cascade(items, cheap, dear, tmp_path, share=0.5, progress=False)
    assert again == (rows, figures) and (cheap.asked, dear.asked) == (300, figures["n_asked"]), "nothing is asked twice"
    write_cascade(tmp_path, rows, figures)
    assert json.loads((tmp_path / "cascade.json").read_text()) == figures
    assert len((tmp_path / "cascade.jsonl").read_text().splitlines()) == 300


def test_identical_answers_are_no_questions_to_the_dear_judge():
    items = [*made_up(40), *(Comparison(f"same{n}", f"Question {n}?", "alike", "alike") for n in range(40, 100))]
    dear = _Planted("dear", lambda n: float(n % 2))
    rows, figures = cascade(items, _Planted("cheap", lambda n: 0.7), dear, share=0.5, progress=False)
    assert figures["n_asked"] == dear.asked == sum(row.asked and not row.free for row in rows) < 40


def test_what_the_dear_judge_leaves_unjudged_is_counted_not_guessed(tmp_path):
    items = made_up(60)
    cheap, dear = _Planted("cheap", lambda n: 0.7), _Planted("dear", lambda n: None if n < 10 else 1.0)
    rows, figures = cascade(items, cheap, dear, share=0.9, progress=False)
    assert figures["n_unjudged"] == sum(row.reason == "refusal" for row in rows) > 5
    assert "left unjudged are like the others" in figures["source"]
    with pytest.raises(JudgeError, match=r"dear has judged none of the \d+ items it was asked about \(refusal\)"):
        cascade(items, cheap, _Planted("dear", lambda n: None), share=0.9, progress=False)
    unsure = _Planted("unsure", lambda n: None)
    _, figures = cascade(items, unsure, _Planted("dear", lambda n: float(n % 2)), share=1.0, progress=False)
    assert figures["win_rate"] == pytest.approx(0.5) and figures["n_asked"] == 60


def test_verdicts_missing_at_random_leave_the_estimate_unbiased():
    items = made_up(400)
    cheap = _Planted("cheap", lambda n: 0.99 if n % 2 else 0.55)  # the dear judge is asked mostly about even items
    dear = _Planted("dear", lambda n: None if (n // 2) % 10 < 3 else 0.6 if n % 2 else 0.2)
    values = [cascade(items, cheap, dear, share=0.4, seed=seed, progress=False)[1]["win_rate"] for seed in range(30)]
    assert np.mean(values) == pytest.approx(0.4, abs=0.015)


def test_a_dear_judge_whose_replies_are_missing_gives_no_estimate(monkeypatch):
    def compare(items, judge, *_, **__):
        reason = "not_asked" if judge.name == "dear" else None
        return [Verdict(one.id, one.id, judge.name, p=None if reason else 0.6, reason=reason) for one in items]

    monkeypatch.setattr("aad_plugin.judges.sitting.cascading.compare", compare)
    with pytest.raises(ConfigError, match="dear has not judged all"):
        cascade(made_up(40), _Planted("cheap", None), _Planted("dear", None), share=0.5)


def test_the_same_judge_twice_is_refused():
    with pytest.raises(ConfigError, match="a cascade needs two different judges, got x twice"):
        cascade(made_up(2), _Planted("x", None), _Planted("x", None))


def test_a_sample_of_the_simulation():
    found = cascade_grid.simulate(40, 300, 0.6, seed=3)
    assert found.cost == pytest.approx(0.6, abs=0.02) and found.width_to_reported < 1.2
    assert found.coverage >= 0.85 and abs(found.bias) <= 3.5


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("rate", [0.5, 0.7])
def test_a_thousand_cascades(rate):
    found = cascade_grid.simulate(1000, 500, rate, seed=1)
    assert found.cost == pytest.approx(0.6, abs=0.005) and found.width_to_reported <= 1.15
    assert found.coverage >= 0.93 and abs(found.bias) <= 3


def test_a_useless_cheap_judge_costs_width_never_truth():
    dice = np.random.default_rng(0)
    values = []
    for _ in range(200):
        dear = (dice.random(200) < 0.7).astype(float)
        asked = dice.random(200) < 0.5
        known = [d if a else None for d, a in zip(dear.tolist(), asked.tolist(), strict=True)]
        values.append(corrected((1 - dear).tolist(), known, [0.5] * 200).value)
    assert abs(np.mean(values) - 0.7) <= 3 * np.std(values) / 200**0.5
