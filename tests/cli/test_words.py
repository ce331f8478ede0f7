"""One way to say things: every command takes the same words for the same idea, and speaks in them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from aad_plugin.cli.grammar import _OLD_NAMES, in_options, listed
from aad_plugin.errors import ConfigError

PARTS = ("--pair", "--policy", "--reference", "--adapter", "--base", "--reference-adapter", "--model-args")


def test_summaries_are_whole_sentences(aad):
    shown = aad("--help").output
    assert "…" not in shown.replace("`lm_eval run …`", "").replace("(--port 8000,\n", "").replace("2 …", "").replace(
        "4096 …", ""
    )
    assert "..." not in shown.split("Commands:")[1]
    assert "takes the same arguments." in " ".join(shown.split())


def test_the_version_is_printed_without_a_command(aad):
    done = aad("--version")
    assert done.exit_code == 0 and re.match(r"aad_plugin \S+, lm_eval \S+, transformers \S+, torch \S+$", done.output)


@pytest.mark.parametrize(
    "command",
    ["generate", "explain", "bench", "synthesize", "iterate", "study", "serve", "run-batch", "pairs check", "pairs save",
     "alpaca-eval generate"],
)  # fmt: skip
def test_a_pair_is_named_the_same_way_everywhere(aad, command):
    shown = aad(*command.split(), "--help").output
    for option in PARTS:
        assert re.search(rf"^ +{option} <", shown, re.MULTILINE), f"aad {command} has no {option}"


def test_no_option_is_called_by_an_old_name(aad):
    for command, old in _OLD_NAMES.items():
        shown = aad(command, "--help").output
        for name, new in old.items():
            assert re.search(rf"^ +{new} <", shown, re.MULTILINE) and not re.search(
                rf"^ +{name} <", shown, re.MULTILINE
            )


def words(aad, checkpoints, *more):
    parts = checkpoints.model_args("two_models")
    return aad(
        "generate", "hello", "--max_new_tokens", "4", *(w for n, p in parts.items() for w in (f"--{n}", p)), *more
    )


@pytest.mark.parametrize(
    "said",
    [("--strategies", "aad,greedy"), ("--strategies", "aad", "--strategies=greedy"),
     ("--strategy", "aad", "--strategy=greedy")],
)  # fmt: skip
def test_strategies_come_by_commas_or_repeated_and_by_their_old_name(aad, checkpoints, said):
    done = words(aad, checkpoints, *said)
    assert done.exit_code == 0, done.exception
    assert re.findall(r"^\[(\w+)\]$", done.stdout, re.MULTILINE) == ["aad", "greedy"]


def test_parts_underscores_and_model_args_name_one_pair(aad, checkpoints):
    parts = checkpoints.model_args("two_models")
    joined = ",".join(f"{name}={path}" for name, path in parts.items())
    plain = words(aad, checkpoints)
    for name in ("--model_args", "--model-args"):
        done = aad("generate", "hello", "--max-new-tokens", "4", name, joined)
        assert done.exit_code == 0 and done.stdout == plain.stdout


def test_prompts_of_a_file_up_to_a_limit(aad, checkpoints, tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("one\ntwo\nthree\n")
    for name in ("--prompts", "--file"):
        done = words(aad, checkpoints, name, file, "--limit", "2")
        assert re.findall(r"^> (.*)$", done.stdout, re.MULTILINE) == ["hello", "one", "two"]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["--pair", "a", "--model-args", "pair=b"], "--pair a and --model-args pair=b disagree: leave one out"),
        (["--pair", "demo", "--adapter", "x"], "--pair 'demo' already names every part, got adapter besides"),
        (["--policy", "o/p"], "pass --reference <the SFT checkpoint it was tuned from>, or --pair <folder>"),
        (["--base", "o/b", "--adapter", "o/a"], "pass --reference <base> --adapter … if it was the base itself"),
        ([], "--policy … --reference …, or --reference … --adapter …, or --base … --reference-adapter … --adapter …"),
    ],
)
def test_mistakes_are_told_in_the_words_of_the_command(aad, said, told):
    done = aad("generate", "hello", *said)
    assert isinstance(done.exception, ConfigError) and told in in_options(str(done.exception))


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("pass policy=…,reference=…, try dtype=float32", "pass --policy … --reference …, try --model-args dtype=float32"),
        ("(pass trust_remote_code=true, or", "(pass --model-args trust_remote_code=true, or"),
        ("pass chat=False to", "pass --no-chat to"),
        ("the reference=<my base>,adapter=/a/b if", "the --reference <my base> --adapter /a/b if"),
        ("alpha must be in (0, 1], got -1.0", "alpha must be in (0, 1], got -1.0"),
        ("--model-args pair=b disagree", "--model-args pair=b disagree"),
    ],
)  # fmt: skip
def test_words_of_model_args_become_options(told, shown):
    assert in_options(told) == shown


def test_a_list_of_names():
    assert listed(["aad, greedy", "aad", ""]) == ["aad", "greedy"]


WRONG = {
    "generate": ["hi"],
    "explain": ["hi"],
    "bench": [],
    "synthesize": ["--prompts", "{file}", "--output", "{tmp}/o"],
    "iterate": [
        "--prompts",
        "{file}",
        "--output",
        "{tmp}/o",
        "--held-out-prompts",
        "x",
        "--oracle-prompts",
        "x",
        "--oracle",
        "reward:demo",
    ],
    "study": ["--prompts", "{file}", "--oracle", "reward:demo", "--output", "{tmp}/o"],
    "serve": [],
    "pairs check": [],
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_name_or_range_is_refused_before_torch_is_imported(command, tmp_path):
    """It took five seconds to hear of a typing mistake."""
    file = tmp_path / "p.txt"
    file.write_text("one\ntwo\nthree\n")
    rest = [word.format(file=file, tmp=tmp_path) for word in WRONG[command]]
    script = (
        "import sys\nfrom aad_plugin.cli.main import app\n"
        "for wrong in (['--pair', 'demmo'], ['--pair', 'demo', '--model-args', 'alpha=7']):\n"
        "    try:\n        app()([*sys.argv[1:], *wrong], standalone_mode=False)\n"
        "    except ValueError as error:\n        print(error)\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command.split(), *rest], capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert "did you mean 'demo'?" in lines[0] and lines[2] == "False False"
    assert "alpha must be a number in (0, 1], got 7" in lines[1] or "sets the decoding itself" in lines[1]


def test_ctrl_c_says_in_one_line_what_is_kept(aad, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("aad_plugin.sources.picture_prompts.read_picture_prompts", interrupted)
    done = aad("synthesize", "--prompts", "x.txt", "--output", tmp_path, "--pair", "demo")
    assert done.exit_code == 130
    (line,) = filter(None, done.stderr.splitlines())
    assert line == "interrupted: every answer so far is kept in --output; the same command goes on there"
