"""Every command in README and docs is understood by its program, and run by a test or marked with what it needs.

A command that is new in a document is in one of three places; the failure below says so:

* RUN_HERE: it is run here as it is written, in a folder of toys (`world.py`);
* TESTED: a test runs the same command, or a build step does, and is named;
* the document says beside it what it needs: `# needs a GPU` after it in a block, `(needs a GPU)` after it in prose.

Tests (`pytest …`) run themselves, steps of `make ci` are run by it, and forms with parts left out cannot be run.
"""

from __future__ import annotations

import re
import shlex

import pytest

from tests.documents import world
from tests.documents.parsing import Wrong, check
from tests.documents.reading import NEEDS, ROOT, Command, commands, documents

# Document → its commands that are run here, in this order; a few seconds in all.
RUN_HERE: dict[str, tuple[str, ...]] = {
    "README.md": (
        'aad generate "How do I keep bread fresh?" --pair demo --strategies aad,greedy --max-new-tokens 48',
        "aad report out --output report.html",
        "aad judge --candidate ours.jsonl --baseline theirs.jsonl --judge openai:gpt-4.1-mini --output runs/judged",
        "aad pairs check --policy my/dpo --reference my/sft --preferences held_out.jsonl",
        "aad tasks",
        "aad judges list",
        "aad explain PROMPT --pair P --output why.html",
        "aad pairs list",
        "aad pairs check P",
        "aad pairs save DIR --policy my/dpo --reference my/sft",
    ),
    "docs/explain.md": (
        'aad explain "How do I keep bread fresh?" --pair demo --output why.html --output why.json',
        'aad explain "How do I keep bread fresh?" --pair demo --answer somebody_elses.txt',
    ),
    "docs/judges.md": (
        "aad judge --candidate samples_x.jsonl#aad --baseline samples_x.jsonl#greedy --judge openai:gpt-4.1-mini "
        "--price 0.4/1.6 --estimate",
        "aad judge --candidate samples_x.jsonl#aad --baseline model_outputs.json --judge openai:gpt-4.1-mini "
        "--output runs/judged",
        "aad judge --from runs/judged/verdicts.jsonl",
    ),
    "docs/leagues.md": (
        "aad judge --systems greedy=samples.jsonl#greedy aad=samples.jsonl#aad other.json --judge openai:gpt-4.1-mini "
        "--output runs/league",
        "aad judge --systems a.json b.json base.json --anchor base --judge openai:gpt-4.1-mini --output runs/anchored",
        "aad league runs/anchored runs/a_vs_b battles.jsonl --anchor base --output runs/ranked",
        "aad report runs/league --output league.html",
        "aad judge --candidate x.json --baseline y.json --judge openai:small --cascade openai:large --dear-share 0.5 "
        "--output runs/cascade",
    ),
    "docs/one_model.md": (
        'aad generate "How do I keep bread fresh?" --pair demo --strategies aad,greedy,expo --expo-scale 2',
        "aad pairs save --pair demo --expo --expo-scale 2 runs/expo",
    ),
    "docs/report.md": (
        "aad report out --output report.html",
        "aad report before=runs/monday after=runs/today --output both.html --plots figures",
        "aad report --compare runs/monday runs/today --gate gate.yaml --junit gate.xml",
    ),
    "docs/training.md": (
        "aad pairs check dpo --preferences held_out.jsonl",
        'aad generate "How do I keep bread fresh?" --pair dpo',
    ),
}  # fmt: skip

_SYNTHESIZE = "tests/synthesis/test_synthesize.py::test_chosen_is_aad_and_rejected_the_policys_own"
_STUDY = "tests/study/test_study.py::test_every_table_and_plot_is_written"
_DEMO = "tests/demo/test_command.py::test_the_demo_ends_with_win_rates_answers_a_page_and_the_next_line"
# Command → the test or the build step that runs it, with toys in the place of the models it names.
TESTED: dict[str, str] = {
    "aad bench --pair P --strategies greedy,aad": "tests/speed/test_bench.py::test_a_toy_pair_is_measured",
    "aad synthesize --pair P --prompts FILE --output DIR": _SYNTHESIZE,
    "aad synthesize --pair demo --model-args dtype=bfloat16 --prompts prompts.jsonl --output runs/pairs "
    "--max-new-tokens 256": _SYNTHESIZE,
    "aad study --pair P --prompts FILE --oracle reward:R --output DIR": _STUDY,
    "aad study --output DIR --tables-only": "tests/study/test_study.py::test_tables_of_a_study_that_still_runs",
    "aad judge-check --judge openai:gpt-4.1-mini --labels human.jsonl": (
        "tests/judges/test_cli.py::test_judge_check_measures_agreement_with_people"
    ),
    "aad judge-check --judge openai:gpt-4.1-mini --labels human.jsonl --compare-reasons": (
        "tests/judges/test_questions.py::test_places_for_reasons_are_measured_on_the_same_comparisons"
    ),
    "aad judge --candidate mine=answers.json --baseline o3-mini-2025-01-31=base.json --protocol arena-hard-v2.0 "
    "--judge openai:gpt-4.1 --output runs/arena": (
        "tests/judges/protocols/test_protocols.py::test_arena_hard_from_the_command_line"
    ),
    "aad serve PAIR --plan 80 --tensor-parallel-size 8 --max-model-len 8192": "tests/engine/test_plan.py::test_what_fits",
    "aad bench --pair demo --strategies greedy,aad,expo": "tests/speed/test_bench.py::test_a_toy_pair_is_measured",
    "aad bench --pair P --draft-model M": "tests/speed/test_bench.py::test_a_toy_pair_is_measured",
    "aad eval --model aad --model_args pair=demo --tasks aad_demo_dialogue --apply_chat_template --batch_size 16 "
    "--output_path out --log_samples": _DEMO,
    "lm_eval run --model aad --model_args pair=demo@1 --tasks aad_demo_dialogue --apply_chat_template "
    "--batch_size 16": _DEMO,
    "lm_eval run --model aad": ".ci/wheel",
    "pip install .": ".ci/wheel",
    "pip install '.[vision]'": "Makefile",
    "pip uninstall torchvision torchaudio torchcodec": "Makefile",
    "python -m tests.test_layers": "tests/test_layers.py",
    "python -m tests.combinations": "tests/pair/test_combinations.py",
}  # fmt: skip


def every() -> list[Command]:
    return [command for path in documents() for command in commands(path)]


COMMANDS = every()


def test_there_is_something_to_check():
    assert len(COMMANDS) > 150 and len({command.file for command in COMMANDS}) > 12


@pytest.mark.parametrize("file", sorted({command.file for command in COMMANDS}))
def test_its_program_understands_a_command(file):
    wrong = []
    for command in COMMANDS:
        if command.file == file:
            try:
                check(command)
            except Wrong as e:
                wrong.append(str(e))
    assert not wrong, "\n".join(wrong)


def test_a_command_is_run_or_says_what_it_needs():
    open_ones = [command for command in COMMANDS if not _accounted(command)]
    shown = "\n".join(f"{command.place}: {command.text}" for command in open_ones)
    assert not open_ones, (
        f"{len(open_ones)} commands are neither run by a test nor marked with what they need:\n{shown}\n"
        "Either write in the document what it needs, `# needs …` after it in a block or `(needs …)` after it in prose, "
        f"with one of {', '.join(NEEDS)}; or name the test that runs it in TESTED, or add it to RUN_HERE, in {__file__}"
    )


def test_a_mark_names_something_a_reader_can_look_for():
    odd = [f"{one.place}: needs {one.needs}" for one in COMMANDS if one.needs and not _is_need(one.needs)]
    assert not odd, f"a mark names at least one of {', '.join(NEEDS)}:\n" + "\n".join(odd)


def test_the_tables_here_hold_no_command_that_is_gone():
    shown = {(command.file, command.text) for command in COMMANDS}
    gone = [f"{file}: {text}" for file, texts in RUN_HERE.items() for text in texts if (file, text) not in shown]
    gone += [text for text in TESTED if text not in {command.text for command in COMMANDS}]
    assert not gone, "no document shows these any more, take them out of RUN_HERE or TESTED:\n" + "\n".join(gone)


def test_the_tests_that_are_named_are_there():
    missing = []
    for place in set(TESTED.values()):
        path, _, name = place.partition("::")
        file = ROOT / path
        if not file.is_file() or (name and not re.search(rf"\bdef {name}\(", file.read_text(encoding="utf-8"))):
            missing.append(place)
    assert not missing


def test_a_new_command_without_a_mark_is_found(tmp_path, monkeypatch):
    """The check itself: what would be let through silently if the reading of documents broke."""
    monkeypatch.setattr("tests.documents.reading.ROOT", tmp_path)
    page = tmp_path / "new.md"
    page.write_text(
        "Prose with `aad generate \"Hi\" --pair demo` (needs the hub) and `aad judge`.\n\n"
        "    aad generate Hi --pair demo --no-such-option   # a comment\n"
        "    # needs a key\n"
        "    aad judge --candidate a \\\n        --baseline b\n\n"
        "```\naad nonsense\naad serve demo  # needs vLLM\n```\n"
    )  # fmt: skip
    found = commands(page)
    assert [(one.line, one.needs) for one in found] == [
        (1, "the hub"),
        (1, ""),
        (3, ""),
        (5, "a key"),
        (9, ""),
        (10, "vLLM"),
    ]
    assert [one.is_name for one in found] == [False, True, False, False, False, False]
    assert [_accounted(one) for one in found] == [True, True, False, True, False, True]
    for number, said in ((2, "no-such-option"), (4, "no command nonsense")):
        with pytest.raises(Wrong, match=said):
            check(found[number])


def _is_need(text: str) -> bool:
    return any(need in text for need in NEEDS)


def _accounted(command: Command) -> bool:
    """Whether the command is a name or a form, is marked, or is run."""
    program = shlex.split(command.text)[0] if not command.is_form else ""
    return (
        command.is_name
        or command.is_form
        or program == "pytest"
        or _is_step(command.text)
        or _is_need(command.needs)
        or command.text in TESTED
        or command.text in RUN_HERE.get(command.file, ())
    )


def _is_step(text: str) -> bool:
    """`make test` and what else `make ci` runs; an environment with extras of ours is made by every step."""
    steps = re.search(r"^CI = (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert steps is not None
    extras = re.fullmatch(r"pip install '\.\[([a-z,]+)\]'", text)
    if extras:
        return set(extras[1].split(",")) <= {"judges", "alpaca", "train", "report", "dev"}
    return text.startswith("make ") and text.split()[1] in ("ci", *re.split("[ ,]", steps[1]))


@pytest.mark.slow
@pytest.mark.parametrize("file", RUN_HERE)
def test_documented_commands_run_as_they_are_written(file, checkpoints, tmp_path, monkeypatch):
    world.fill(tmp_path, checkpoints)
    with world.living(tmp_path, checkpoints, monkeypatch):
        world.prepare()
        for text in RUN_HERE[file]:
            world.run(text)


@pytest.mark.slow
def test_trl_understands_its_commands():
    from aad_plugin.training.recipes import recipe_path
    from aad_plugin.training.trl_command import check_options

    folder = str(recipe_path("dpo").parent)
    for command in COMMANDS:
        program, *words = shlex.split(command.text) if not command.is_form else [""]
        if program == "trl" and not command.is_name:
            # TRL also looks for a device that knows bfloat16, which this machine need not have.
            check_options(
                words[0], [word.replace("$R", folder) for word in words[1:]] + ["--use_cpu", "--bf16", "false"]
            )


@pytest.mark.engine
@pytest.mark.grid
def test_vllm_understands_its_commands():
    from vllm.entrypoints.launchers.run_batch import make_arg_parser as of_batch
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser as of_server
    except ImportError:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser as of_server

    for command in COMMANDS:
        words = shlex.split(command.text) if not command.is_form else []
        if command.is_name or words[:2] not in (["vllm", "run-batch"], ["vllm", "serve"]):
            continue
        of = of_batch if words[1] == "run-batch" else of_server
        of(FlexibleArgumentParser()).parse_args(words[2:])
