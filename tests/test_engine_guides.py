"""Guides of a pair on vLLM, as far as no vLLM is needed: words, requests, refusals, and the scores of a batch's rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aad_plugin.cli.engine_options import asked_pair
from aad_plugin.cli.pair_options import NamedPair
from aad_plugin.decoding import aad_scores, guided_scores, plausible_set, weighted_reward
from aad_plugin.engine.guided import check_roles, further_checkpoints, guide_roles, shared_sides
from aad_plugin.engine.middleware import GUIDES, AADMiddleware, check_request, environment, model_names
from aad_plugin.engine.requests import Held, extra_args, settings_of
from aad_plugin.engine.row_scores import Cast, score_rows
from aad_plugin.errors import ConfigError
from aad_plugin.settings import DecodingSettings

NO_GUIDES = {"reference": "r"}
BESIDE = {
    "adapter": "dpo",
    "guides": [["guide1", "reference"], ["guide2", None]],
    "guide_checkpoints": {"guide2": ["small", "abc"]},
    "guide_adapters": {"guide1": "lora"},
}
ALONE = {"guides": [["guide1", None]], "guide_checkpoints": {"guide1": ["small", None]}}


def test_guides_find_their_places():
    check_roles(BESIDE)
    assert guide_roles(BESIDE) == (("guide1", "reference"), ("guide2", None))
    assert shared_sides(BESIDE) == {"policy": "dpo", "reference": None, "guide1": "lora"}
    assert further_checkpoints(BESIDE) == {"guide2": ("small", "abc")}
    assert shared_sides(ALONE) == {} and further_checkpoints({**ALONE, "reference": "r"})["reference"] == ("r", None)


@pytest.mark.parametrize(("own", "said"), [
    ({**NO_GUIDES, "guides": [["guide1", None]]}, r"names 'guide1', which is no side of this engine \(policy, reference\)"),
    ({**ALONE, "guides": [["guide1", "reference"]]}, r"names 'reference', which is no side of this engine"),
    ({**NO_GUIDES, "guide_adapters": {"guide1": "x"}}, "share a base with the policy's adapter, which is not named"),
])  # fmt: skip
def test_guides_without_their_models_are_one_line(own, said):
    with pytest.raises(ConfigError, match=said):
        check_roles(own)


def test_what_an_engine_holds_is_what_it_is_asked_by():
    assert Held.by(NO_GUIDES).strategies == ("aad", "greedy", "reference", "eft")
    assert Held.by(BESIDE).strategies == ("aad", "greedy", "reference", "eft", "guided")
    assert Held.by(ALONE).strategies == ("guided", "greedy") and Held.by(ALONE).default.strategy == "guided"
    assert model_names("m", Held.by(ALONE)) == ["m", "m-greedy"]
    assert model_names("m", Held.by(BESIDE))[-1] == "m-guided"


@pytest.mark.parametrize("scale", [1.5, (1.5, 1e-7)])
def test_a_requests_weights_arrive_as_they_were_written(scale):
    settings = DecodingSettings(strategy="guided", guide_scale=scale, alpha=0.2)
    assert settings_of(extra_args(settings), DecodingSettings(), Held(2)) == settings


@pytest.mark.parametrize(("held", "given", "said"), [
    (Held(), {"aad_strategy": "guided"}, "strategy='guided' needs a guide"),
    (Held(1), {"aad_strategy": "guided", "aad_guide_scale": "1+2"}, "guide_scale has 2 weights for 1 guide"),
    (Held(1), {"aad_strategy": "guided", "aad_guide_scale": -1}, "guide_scale must be a number from 0"),
    (Held(1), {"aad_strategy": "guided", "aad_guide_scale": "nan"}, "guide_scale must be a number from 0"),
    (Held(1, True), {"aad_strategy": "aad"}, "reads a reference, and this policy was given none"),
    (Held(1, True), {"aad_strategy": "eft"}, "reads a reference, and this policy was given none"),
])  # fmt: skip
def test_a_request_that_the_engine_cannot_answer_is_refused(held, given, said, monkeypatch):
    with pytest.raises(ConfigError, match=said):
        settings_of(given, held.default, held)
    with pytest.raises(ConfigError, match=said):
        check_request({"model": "aad", "prompt": "x", "vllm_xargs": given}, held=held)
    for name, value in environment(258, held, False).items():
        monkeypatch.setenv(name, value)
    assert AADMiddleware(lambda *rest: None).held == held and GUIDES  # what a server tells its middleware


@pytest.mark.parametrize(("arguments", "scale", "said"), [
    ({}, "1+2", "guide_scale has 2 weights for 1 guide"),
    ({}, "-1", "guide_scale must be a number from 0"),
    ({}, "inf", "guide_scale must be a number from 0"),
    ({"guide": None, "strategy": "guided"}, None, "strategy='guided' needs a guide"),
    ({"reference": None, "strategy": "eft"}, None, "reads a reference, and this policy was given none"),
])  # fmt: skip
def test_a_command_line_that_no_engine_can_follow_is_refused_before_it_starts(arguments, scale, said):
    named = NamedPair({"policy": "p", "reference": "r", "guide": "g", **arguments})
    with pytest.raises(ConfigError, match=said):
        asked_pair(named, alpha=None, guide_scale=scale)


@pytest.mark.parametrize("strategy", ["greedy", "reference", "eft"])
def test_a_name_that_asks_for_a_strategy_is_no_name_of_a_pair(strategy):
    with pytest.raises(ConfigError, match=f"'my-{strategy}' ends with -{strategy}"):
        model_names(f"my-{strategy}", Held())


@pytest.mark.parametrize("name", ["m", "m-greedy"])
def test_vllms_beams_are_refused(name):
    with pytest.raises(ConfigError, match="use_beam_search is not served"):
        check_request({"model": name, "prompt": "x", "use_beam_search": True, "n": 4})
    assert check_request({"model": name, "prompt": "x", "use_beam_search": False})


def test_guided_scores_are_no_log_probabilities():
    for held, body in ((Held(1), {"model": "aad-guided"}), (Held(1, True), {"model": "aad"})):
        with pytest.raises(ConfigError, match="temperature must be 0 with strategy 'guided'"):
            check_request({**body, "prompt": "x", "temperature": 0.7}, held=held)
        with pytest.raises(ConfigError, match="logprobs of strategy 'guided' would be scores"):
            check_request({**body, "prompt": "x", "logprobs": 2}, held=held)
    assert check_request({"model": "aad-guided", "prompt": "x"}, held=Held(1))["vllm_xargs"] == {
        "aad_strategy": "guided"
    }


class Rows:
    """One side of a step whose logits are known."""

    def __init__(self, logits: Tensor, on_demand: bool) -> None:
        self.logits, self.on_demand = logits, on_demand

    def whole(self) -> Tensor:
        return self.logits

    def columns(self, rows: Tensor, tokens: Tensor) -> Tensor:
        return self.logits[rows, tokens]


@pytest.mark.parametrize("on_demand", [True, False], ids=["candidates", "whole rows"])
def test_rows_of_one_batch_are_scored_each_by_its_own_strategy(on_demand):
    generator = torch.Generator().manual_seed(5)
    rows = {name: 3 * torch.randn(24, 50, generator=generator) for name in ("policy", "reference", "guide1", "guide2")}
    cast = Cast((("guide1", "reference"), ("guide2", None)), 50, 52)
    kinds = [DecodingSettings(), DecodingSettings(strategy="guided", guide_scale=(1.5, 0.5), alpha=0.05)]
    kinds += [DecodingSettings(strategy="guided", guide_scale=0), DecodingSettings(strategy="greedy")]
    settings = [kinds[row % len(kinds)] for row in range(24)]
    scores = score_rows({role: Rows(logits, on_demand) for role, logits in rows.items()}, settings, cast)
    assert scores.shape == (24, 52) and bool((scores[:, 50:] < scores[:, :50].amin(-1, keepdim=True)).all())
    reward = weighted_reward(rows["guide1"], rows["reference"], 1.5) + weighted_reward(rows["guide2"], None, 0.5)
    wanted = [
        aad_scores(rows["policy"], rows["reference"], 0.1), guided_scores(rows["policy"], reward, 0.05),
        rows["policy"], rows["policy"],
    ]  # fmt: skip
    for row in range(24):
        assert int(scores[row].argmax()) == int(wanted[row % len(kinds)][row].argmax()), settings[row]
    alone = score_rows({role: Rows(logits, on_demand) for role, logits in rows.items()}, [kinds[1]] * 24, cast)
    inside = plausible_set(rows["policy"], 0.05)
    torch.testing.assert_close(alone[:, :50][inside], wanted[1][inside], atol=1e-4, rtol=0)
    assert cast.needed(settings) == ("policy", "reference", "guide1", "guide2")
