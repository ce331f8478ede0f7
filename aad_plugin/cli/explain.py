"""``aad explain``: one answer token by token, as decoded or as given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.option_group import given_only, refuse_given
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError


@names_a_pair
def explain(
    named: NamedPair,
    prompt: Annotated[str, typer.Argument(help="The prompt, a user turn.")],
    image: Annotated[list[str] | None, typer.Option(help="A picture shown before the prompt; may be repeated.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="aad, greedy, reference, sample, best_of_<n>, eft, expo, guided, vcd; default the pair's."),
    ] = None,
    answer: Annotated[
        Path | None,
        typer.Option(help="Score the text in this file, without its last newline, instead of decoding one."),
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Plausibility threshold in (0, 1]; default 0.1.")] = None,
    eft_scale: Annotated[float | None, typer.Option(help="Strength of eft; default 1.5.")] = None,
    guide_scale: Annotated[
        str | None, typer.Option(help="Weight of guided's guides, 1+0.5 for two; default 1.")
    ] = None,
    expo_scale: Annotated[float | None, typer.Option(help="Strength of expo; default 0.5.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling strategies.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="At most this many new tokens; default 256.")] = None,
    chat: Annotated[bool | None, typer.Option(help="Apply the chat template; default: if there is one.")] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(help="FILE.html: a self-contained page; FILE.json: every figure; may be repeated."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", hidden=True, help="Before: --output FILE.html.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", hidden=True, help="Before: --output FILE.json.")] = None,
) -> None:
    """Say why each token of an answer was chosen: policy, reference, advantage, and where it departs from greedy."""
    text = _read(answer) if answer else None
    given = {"alpha": alpha, "eft_scale": eft_scale, "expo_scale": expo_scale, "guide_scale": guide_scale, "seed": seed}
    if text is not None:
        _check_scored(strategy, {**given, "alpha": None, "max_new_tokens": max_new_tokens})
    named.check(**given, strategy=strategy)  # a typo is refused before any weight is loaded
    from aad_plugin.files.whole import write_text
    from aad_plugin.sources.images import with_pictures

    asked = with_pictures(prompt, image or [])
    pages, figures = _files(output or [], html, json_file)
    from rich.console import Console

    from aad_plugin.explain.explaining import explain as decode_and_read
    from aad_plugin.explain.explaining import explain_answer
    from aad_plugin.explain.views import print_explanation, write_explanation

    loaded = named.load(**given)
    if text is None:
        found = decode_and_read(
            loaded, asked, strategy=strategy, chat=chat, progress=sys.stderr.isatty(),
            **given_only(max_new_tokens=max_new_tokens),
        )  # fmt: skip
    else:
        found = explain_answer(loaded, asked, text, chat=chat)
    print_explanation(found, Console(highlight=False, markup=False))
    for path in figures:
        write_text(path, json.dumps(found.to_json(), ensure_ascii=True, indent=1) + "\n")
    for path in pages:
        write_explanation(found, path)
    for path in (*pages, *figures):
        typer.echo(f"written to {path}", err=True)


def _check_scored(strategy: str | None, decoding: dict[str, Any]) -> None:
    """Refuse what only an answer that is decoded takes; ``alpha`` is read of a given one, too."""
    if strategy is not None:
        raise ConfigError("--answer scores a text as it stands, --strategy decodes one: leave one of them out")
    refuse_given(decoding, "--answer scores a text as it stands, and")


def _files(output: list[Path], html: Path | None, json_file: Path | None) -> tuple[list[Path], list[Path]]:
    """Return where pages and where figures go, each of which can be written."""
    from aad_plugin.files.whole import check_writable

    pages = [path for path in (*output, html) if path and (path.suffix == ".html" or path == html)]
    figures = [path for path in (*output, json_file) if path and path not in pages]
    for path in figures:
        if path.suffix != ".json" and path != json_file:
            raise ConfigError(f"--output writes FILE.html (a page) or FILE.json (every figure), got {path}")
    for path in (*pages, *figures):
        check_writable(path)
    return pages, figures


def _read(path: Path) -> str:
    try:
        # Editors and `echo` end a file with a newline that nobody answered.
        return path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"cannot read the answer {path}: {getattr(e, 'strerror', None) or e}") from e
