"""The recipes of losses: one set of options for all, and TRL's own parsers read each."""

from __future__ import annotations

import pytest

from aad_plugin.errors import ConfigError
from aad_plugin.training.losses import LOSSES, loss_named
from aad_plugin.training.recipes import read_recipe, recipe_names, recipe_path
from aad_plugin.training.trl_command import check_options

OWN = {"loss_type", "beta", "label_smoothing", "cpo_alpha", "simpo_gamma"}


def test_losses_differ_in_nothing_but_the_loss():
    recipes = {name: read_recipe(recipe_path(loss.recipe)) for name, loss in LOSSES.items()}
    shared = [{key: value for key, value in one.items() if key not in OWN} for one in recipes.values()]
    assert all(one == shared[0] for one in shared)
    assert {name for name in recipe_names() if name.startswith("loss_")} == {loss.recipe for loss in LOSSES.values()}
    assert [name for name, loss in LOSSES.items() if not loss.has_reference] == ["orpo", "simpo"]


def test_an_unknown_loss_is_one_line():
    with pytest.raises(ConfigError, match=r"no loss 'simop' \(did you mean 'simpo'"):
        loss_named("simop")


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.parametrize("name", LOSSES)
def test_trls_parser_takes_every_recipe(name):
    pytest.importorskip("trl")
    loss = LOSSES[name]
    words = ["--config", str(recipe_path(loss.recipe)), "--model_name_or_path", "m", "--dataset_name", "d"]
    check_options(loss.command, [*words, "--output_dir", "out"])
