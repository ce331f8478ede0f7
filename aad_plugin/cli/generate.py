"""``aad generate``: answer prompts with a pair, by one or several strategies side by side."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from aad_plugin.cli.grammar import listed
from aad_plugin.cli.option_group import given_only, refuse_given, takes
from aad_plugin.cli.pair_options import NamedPair, names_a_pair
from aad_plugin.errors import ConfigError
from aad_plugin.files.whole import check_writable, write_text


@dataclass(frozen=True)
class _Decoding:
    """How strong strategies are; None where the pair's own holds."""

    alpha: Annotated[float | None, typer.Option(help="Plausibility threshold in (0, 1]; default 0.1.")] = None
    eft_scale: Annotated[float | None, typer.Option(help="Strength of eft; default 1.5.")] = None
    expo_scale: Annotated[float | None, typer.Option(help="Strength of expo; default 0.5.")] = None
    guide_scale: Annotated[str | None, typer.Option(help="Weight of guided's guides, 1+0.5 for two; default 1.")] = None
    cd_alpha: Annotated[float | None, typer.Option(help="Weight of vcd's contrast; default 1.")] = None
    cd_beta: Annotated[float | None, typer.Option(help="Plausibility threshold of vcd in (0, 1]; default 0.1.")] = None
    noise_step: Annotated[
        int | None, typer.Option(help="Noise of vcd's pictures, 0 to 999 steps of diffusion; default 500.")
    ] = None
    n: Annotated[int | None, typer.Option(help="How many answers best_of_n draws; default 2.")] = None
    picker: Annotated[str | None, typer.Option(help="Picker of best_of_n: implicit or reward:<model>.")] = None
    temperature: Annotated[float | None, typer.Option(help="Temperature of sample and best_of_n; default 1.")] = None
    top_p: Annotated[float | None, typer.Option(help="Nucleus of sample and best_of_n; default 0.95.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of sampling strategies, and of vcd's noise.")] = None


@names_a_pair
@takes(decoding=_Decoding)
def generate(
    named: NamedPair,
    asked: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="Prompts, each a user turn.")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Prompts from a file (.txt, .jsonl, .json, .csv, .parquet) or a dataset; rows may show images."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts of --prompts.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="A picture shown before each PROMPT; may be repeated. For pairs that see.")
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            help="Write the answer to one PROMPT as this picture; for pairs that write pictures, such as Emu3's."
        ),
    ] = None,
    draw_area: Annotated[
        int | None, typer.Option(help="About how many pixels --draw writes; default 518400, 720 × 720.")
    ] = None,
    strategies: Annotated[
        list[str] | None,
        typer.Option(
            help="aad, greedy, reference, sample, best_of_<n>, eft, expo, guided, vcd; several by commas or repeated."
        ),
    ] = None,
    *,
    decoding: _Decoding,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="At most this many new tokens per answer; default 256.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Prompts decoded together; default 8.")] = None,
    chat: Annotated[bool | None, typer.Option(help="Apply the chat template; default: if there is one.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write JSONL {prompt, outputs: {strategy: text}} here.")] = None,
) -> None:
    """Answer prompts with an aligned pair."""
    if limit is not None and prompts is None:
        raise ConfigError("--limit is of --prompts: name a file, or leave it out")
    questions = _questions(asked or [], image or [], prompts, limit)
    if output:
        check_writable(output)
    given = asdict(decoding)
    names = listed(strategies or [])
    named.check(**given)  # a typo is refused before any weight is loaded
    for name in names:
        named.check(**given, strategy=name)
    if draw:
        of_text = {"output": output, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "chat": chat}
        _check_drawn(draw, questions, names, of_text)
    elif draw_area is not None:
        raise ConfigError("--draw-area is of the picture that --draw writes: name its file with --draw")
    loaded = named.load(**given)
    if draw:
        return _draw(loaded, questions[0], names, draw, draw_area)
    progress = sys.stderr.isatty() or len(questions) > (batch_size or 8)
    options = {"progress": progress, **given_only(max_new_tokens=max_new_tokens, batch_size=batch_size, chat=chat)}
    _answer(loaded, questions, names or [loaded.settings.strategy], output, options)


def _answer(loaded: Any, questions: list[Any], names: list[str], output: Path | None, options: dict[str, Any]) -> None:
    """Answer by each strategy, then show and write all."""
    from aad_plugin.pair.answering import answer

    outputs: dict[str, list[str]] = {}
    try:
        for name in names:
            outputs[name] = answer(loaded, questions, strategy=name, **options)
    finally:  # an interrupted or failed strategy does not cost the answers of those before it
        if outputs:
            _show([{**_written(asked), "outputs": {name: texts[i] for name, texts in outputs.items()}}
                   for i, asked in enumerate(questions)], output)  # fmt: skip


def _questions(asked: list[str], image: list[str], prompts: str | None, limit: int | None) -> list[Any]:
    """Return what is asked: the arguments, each after the pictures, then those from a file."""
    from aad_plugin.sources.images import with_pictures
    from aad_plugin.sources.picture_prompts import picture_prompt_rows

    from_file = (prompt for _, prompt in picture_prompt_rows(prompts)) if prompts else iter(())
    if image and not asked:
        raise ConfigError('--image shows a picture before a PROMPT: give one as an argument ("What is this?")')
    questions = [*(with_pictures(one, image) for one in asked), *itertools.islice(from_file, limit)]
    if not questions:
        raise ConfigError('no prompt: give one as an argument ("How do I …?") or with --prompts FILE')
    return questions


def _check_drawn(path: Path, questions: list[Any], names: list[str], of_text: dict[str, Any]) -> None:
    if len(questions) != 1 or len(names) > 1 or not isinstance(questions[0], str):
        raise ConfigError("--draw writes one picture: give one PROMPT of text, at most one strategy and no --image")
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--draw writes FILE.png, FILE.jpg or FILE.webp, got {path}")
    check_writable(path)
    refuse_given(of_text, "--draw writes one picture of the model's own size, and")


def _draw(pair: Any, prompt: str, names: list[str], path: Path, area: int | None) -> None:
    from aad_plugin.pair.drawing import AREA, draw

    picture = draw(pair, prompt, strategy=names[0] if names else None, area=AREA if area is None else area)
    try:
        picture.save(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    typer.echo(f"written to {path} ({picture.width} × {picture.height} pixels)", err=True)


def _written(prompt: Any) -> dict[str, Any]:
    """A prompt as it is printed and written, its pictures by name and digest: who reads it must not take it for text."""
    if isinstance(prompt, str) or all(isinstance(turn["content"], str) for turn in prompt):
        return {"prompt": prompt}
    from aad_plugin.pair.encoding import pictures_of, shown_text

    return {"prompt": shown_text(prompt), "images": [f"{one.name}, {one.digest}" for one in pictures_of(prompt)]}


def _show(rows: list[dict[str, Any]], output: Path | None) -> None:
    if output is None:
        return _print(rows)
    try:
        write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except ConfigError:  # the disk filled up meanwhile
        typer.echo("the answers follow here, since their file cannot be written", err=True)
        _print(rows)
        raise
    typer.echo(f"{len(rows)} answers written to {output}", err=True)


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if len(rows) > 1:
            typer.echo(f"\n> {row['prompt']}")
        for name, text in row["outputs"].items():
            typer.echo(f"\n[{name}]\n{text}" if len(row["outputs"]) > 1 else text)
