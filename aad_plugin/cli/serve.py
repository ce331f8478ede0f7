"""``aad serve``: an OpenAI-compatible server of a pair, on vLLM."""

from __future__ import annotations

from typing import Annotated

import typer

from aad_plugin.cli.engine_options import AskedPair, asked_pair, engine_value
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError


@names_a_pair(positional=True)
def serve(
    context: typer.Context,
    named: NamedPair,
    name: Annotated[
        str, typer.Option(help="Served as NAME, NAME-greedy, NAME-reference, NAME-eft, NAME-guided.")
    ] = "aad",
    alpha: Annotated[
        float | None, typer.Option(help="Plausibility threshold of requests that do not name one.")
    ] = None,
    guide_scale: Annotated[
        str | None, typer.Option(help="Weight of guides, of requests that do not name one; 1+0.5 for several guides.")
    ] = None,
    self_test: Annotated[
        bool | None,
        typer.Option(
            "--self-test/--no-self-test", help="Only compare the engine with transformers and exit / skip this test."
        ),
    ] = None,
    ignore_temperature: Annotated[
        bool,
        typer.Option(
            "--ignore-temperature",
            help="Ignore the temperature of requests to aad, eft and guided; without it they are refused.",
        ),
    ] = False,
    plan: Annotated[
        float | None,
        typer.Option(
            help="Only say what fits on devices of this many GiB (with --tensor-parallel-size, --max-model-len)."
        ),
    ] = None,
) -> None:
    """Serve a pair; every further argument is one of `vllm serve` (--port 8000, --tensor-parallel-size 2 …).

    A request's default is AAD's argmax; of a policy that has guides and no reference, guided. The strategy comes by model
    name, or by "vllm_xargs": {"aad_strategy": "eft", "aad_eft_scale": 2}. Before it listens, a few prompts are decoded and
    compared with transformers.
    """
    extra = list(context.args)
    asked = asked_pair(named, alpha=alpha, guide_scale=guide_scale)
    dtype = asked.engine_dtype(extra)
    if plan is not None:
        return _plan(asked, dtype, extra, plan)
    prepared = asked.prepare(extra)
    from aad_plugin.engine.self_test import expected_tokens
    from aad_plugin.engine.server import serve as run
    from aad_plugin.engine.server import server_arguments

    expected = None
    if self_test is not False:
        expected = expected_tokens(asked.proving(extra), dtype)
    run(
        server_arguments(prepared, name, asked.engine_options(extra)),
        expected,
        only_test=self_test is True,
        ignore_temperature=ignore_temperature,
    )


def _plan(asked: AskedPair, dtype: str, extra: list[str], device_gib: float) -> None:
    from transformers import AutoConfig

    from aad_plugin.engine.plan import part, plan
    from aad_plugin.pair.guide_loading import cast
    from aad_plugin.sources.merging import can_share_base

    source, revision = asked.source, engine_value(extra, "--revision")
    others = asked.reference_revision or revision
    casting = cast(source, {"policy": revision, "reference": others})
    guides = list(casting.checkpoints.values())
    configs = [AutoConfig.from_pretrained(source.backbone, revision=revision)]
    configs.append(AutoConfig.from_pretrained(source.reference, revision=others) if source.reference else configs[0])
    devices, context = _number(extra, "--tensor-parallel-size", 1), _number(extra, "--max-model-len", 4096)
    found = plan(
        *(part(config, dtype) for config in configs), devices=devices, device_gib=device_gib, context=context,
        shares_base=asked.merge_adapters is not True and can_share_base(source), is_alone=source.is_alone,
        guides=[part(AutoConfig.from_pretrained(one.base or one.path, revision=one.revision), dtype) for one in guides],
        guide_sides=len(casting.adapters),
    )  # fmt: skip
    print("\n".join(found.lines()))


def _number(extra: list[str], option: str, default: int) -> int:
    """Return an option of the engine that is a whole number from 1."""
    given = engine_value(extra, option)
    if given is None:
        return default
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"{option} must be a whole number from 1 to plan with, got {given!r}")
    return int(given)
