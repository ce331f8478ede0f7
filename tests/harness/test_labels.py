"""Labels read out of answers, and the figures made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from aad_plugin.judges.items import Verdict
from aad_plugin.rivals.arena_score import arena_score
from aad_plugin.rivals.label_metrics import accuracy, flag_figures, macro_f1, mean_of, standard_error_of
from aad_plugin.rivals.label_reading import one_label, set_of_labels

LABELS = ["card_arrival", "Refund_not_showing_up", "reverted_card_payment?", "oos"]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Category: card_arrival\nThe card is late.", "card_arrival"),
        ("**Category:** `card arrival`", "card_arrival"),
        ("- category : Card-Arrival.", "card_arrival"),
        ("Category: refund_not_showing_up", "Refund_not_showing_up"),
        ("Category: reverted_card_payment", "reverted_card_payment?"),
        ("Let me think.\n\nCategory: oos", "oos"),
        ("Category: oos\r\nIt is out of scope.\r\n", "oos"),
        ("Category: card_arrival\nCategory: card_arrival", "card_arrival"),
        ("The message above belongs to Category: Card_arrival", "card_arrival"),
        ("Category: card_arrival. The card is late.", "card_arrival"),
        ("Category: card_arrival, since the card is late.", None),
        ("Category: card_arrival\nCategory: oos", None),
        ("Category: card_arrival or oos", None),
        ("Category: cards", None),
        ("The category is card_arrival.", None),
        ("card_arrival", None),
        ("", None),
    ],
)
def test_one_label(answer, label):
    assert one_label(answer, "Category", LABELS) == label


@pytest.mark.parametrize(
    ("answer", "flagged"),
    [
        ("Categories: S, V", {"S", "V"}),
        ("Categories: none.", set()),
        ("Categories: S, V\r\n", {"S", "V"}),
        ("**Categories**: v2 and h", {"V2", "H"}),
        ("Categories: S\nCategories: none", None),
        ("Categories: S, other", None),
        ("Categories: S; H", {"S", "H"}),  # was: S alone
        ("Categories: S, H;V.", {"S", "H", "V"}),
        ("Categories: S; it shows sex, and violence.", {"S"}),
        ("Categories: S; perhaps; H", None),
        ("Categories: none; H", None),
        ("None apply.", None),
    ],
)
def test_set_of_labels(answer, flagged):
    found = set_of_labels(answer, "Categories", ["S", "H", "V", "V2"])
    assert (found if found is None else {name for name, flag in found.items() if flag}) == flagged


def test_category_figures_by_hand():
    # a: 2 documents, 1 found; b: 1 document, found, and named once too often; c: never named, so F1 0.
    pairs = [("a", "a"), ("a", None), ("b", "b"), ("c", "b")]
    assert accuracy(pairs) == 2 / 4
    # F1(a) = 2·1/(2·1 + 0 + 1) = 2/3; F1(b) = 2·1/(2·1 + 1 + 0) = 2/3; F1(c) = 0.
    assert macro_f1(pairs) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_flag_figures_by_hand():
    # Known: found, missed, false alarm, right silence, unreadable; one unknown is left out.
    pairs = [(1, 1), (1, 0), (0, 1), (0, 0), (1, None), (None, 1)]
    # precision 1/2; recall 1/3; F1 = 2·1/(2·1 + 1 + 2) = 2/5.
    assert flag_figures(pairs) == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    assert all(math.isnan(value) for value in flag_figures([(None, 1)]).values())
    assert math.isnan(flag_figures([(1, 0)])["precision"]), "nothing was predicted"


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_scikit_learns_on_random_labels(seed):
    rng = np.random.default_rng(seed)
    gold, said = rng.choice(list("abcd"), 200), rng.choice(list("abcd"), 200)
    pairs = list(zip(gold.tolist(), said.tolist(), strict=True))
    assert accuracy(pairs) == pytest.approx(metrics.accuracy_score(gold, said))
    assert macro_f1(pairs) == pytest.approx(metrics.f1_score(gold, said, average="macro"))
    truth, guess = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    found = flag_figures(list(zip(truth.tolist(), guess.tolist(), strict=True)))
    assert found["precision"] == pytest.approx(metrics.precision_score(truth, guess))
    assert found["recall"] == pytest.approx(metrics.recall_score(truth, guess))
    assert found["f1"] == pytest.approx(metrics.f1_score(truth, guess))


def test_means_of_what_is_there():
    assert mean_of([1.0, None, 0.0]) == 0.5 and math.isnan(mean_of([None]))
    # Two values 1 and 0: standard deviation sqrt(1/2), over sqrt(2).
    assert standard_error_of([1.0, None, 0.0]) == pytest.approx(0.5) and math.isnan(standard_error_of([1.0]))


def test_arena_score_counts_strong_verdicts_three_times():
    def verdict(*orders: float | None) -> Verdict:
        return Verdict(id="0", prompt=str(orders), judge="j", orders=orders)

    # A>>B and A>B: 3 + 1 won battles; A=B and B>A: 0.5 of 2; together (3 + 1 + 0.5) / 6.
    score, error = arena_score([verdict(1.0, 0.75), verdict(0.5, 0.25)])
    assert score == pytest.approx(4.5 / 6) and error > 0
    assert arena_score([verdict(0.0, 0.0)])[0] == 0
    assert all(math.isnan(value) for value in arena_score([verdict()]))


def test_arena_score_of_identical_answers_unjudged_orders_and_other_judges():
    identical = [Verdict(id=str(n), prompt=str(n), judge="j", p=0.5) for n in range(50)]
    won = [Verdict(id=str(n), prompt=str(n), judge="j", p=0.75, orders=(0.75, 0.75)) for n in range(50, 100)]
    assert arena_score(identical + won)[0] == pytest.approx(0.75)  # 100 ties and 100 won battles
    half = Verdict(id="a", prompt="a", judge="j", orders=(0.0, None), reason="refused")
    assert arena_score([*won, half])[0] == 1  # dropped as a prompt, as upstream does
    assert all(math.isnan(value) for value in arena_score([*won, Verdict("b", "b", "j", p=0.51, orders=(0.51,))]))
