"""TRL's command line as a child process: shown while it runs, logged, resumed from its last whole checkpoint.

A killed parent leaves its trainer behind (two processes deep: ``trl`` starts ``accelerate launch``). Children therefore
carry the name of the run's folder in their environment, and the next run of that folder ends them by that mark.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from aad_plugin.errors import AADError, BackendMissing, ConfigError
from aad_plugin.training.experimental import COMMANDS

FOLDER_MARK = "AAD_RUN_FOLDER"
_GRACE_S = 10
# In a process of its own: reading TRL's options claims devices. What a command line holds besides is accelerate's.
_PARSE = """
import importlib, json, sys, yaml
module, command, *words = sys.argv[1:]
own = {} if module.startswith("trl.") else {"command": command}
parser = importlib.import_module(module).make_parser(prog=f"trl {command}", **own)
recipe = yaml.safe_load(open(words[words.index("--config") + 1])) if "--config" in words else {}
*parsed, left = parser.parse_args_and_config(words, return_remaining_strings=True)
training = next(one for one in parsed if hasattr(one, "per_device_train_batch_size"))
drawn = None
if hasattr(training, "num_generations"):
    drawn = training.generation_batch_size // training.num_generations
elif command == "distillation":
    drawn = training.per_device_train_batch_size * training.gradient_accumulation_steps
tokens = getattr(training, "max_completion_length", None)
length = getattr(training, "max_length", None)
print(json.dumps([[name for name in recipe if f"--{name}" in left], drawn, tokens, length]))
"""


@dataclass(frozen=True)
class Drawn:
    """What a command draws while it trains: answers to how many prompts for one batch, of how many tokens at most; None
    for a command that draws nothing. And how long a text may be for one that draws none."""

    prompts: int | None = None
    tokens: int | None = None
    length: int | None = None


class TrainingFailed(AADError):
    """TRL ended with an error; its log has the cause, its checkpoints are kept."""


def option_name(word: str) -> str:
    """The name of an option of TRL's: its parser reads dashes as underscores."""
    return word.split("=")[0].lstrip("-").replace("-", "_")


def check_trl(oldest: tuple[int, int] | None = None) -> None:
    """Raise BackendMissing where TRL is not installed, or older than a command needs."""
    if importlib.util.find_spec("trl") is None:
        raise BackendMissing("training needs TRL, which is not installed: pip install 'aad_plugin[train]'")
    found = metadata.version("trl")
    if oldest and Version(found).release[:2] < oldest:
        raise BackendMissing(
            f"this command needs TRL {'.'.join(map(str, oldest))} or newer, found {found}: pip install -U "
            "'aad_plugin[train]'"
        )


def _quiet() -> str:
    """The user's PYTHONWARNINGS and three more: how trl is started, old names in our recipes and in what PEFT asks."""
    own = (
        "ignore:'trl.cli.main' found in sys.modules:RuntimeWarning",
        "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    )
    return ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), *own)))


def run_trl(
    command: str,
    arguments: Sequence[str],
    *,
    output: Path,
    log: Path,
    mark: Path,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run ``trl COMMAND``; blocks until it ends, passes its output on to stderr.

    Args:
        command: dpo, sft, reward, …, orpo or simpo. arguments: as on a shell, without output and resume options.
        output: TRL's output folder; training goes on from the last whole checkpoint in it.
        log: what TRL prints is appended here. mark: the run's folder, for `end_orphans`. variables: of its environment.
    Raises:
        BackendMissing: no TRL. TrainingFailed: it did not end well; names the log and what the next run goes on from.
    """
    check_trl()
    # TRL has no command for some trainers; those run in a process of their own, too.
    program = "aad_plugin.training.experimental" if command in COMMANDS else "trl.cli.main"
    run_trainer([program, command, *arguments], what=f"trl {command}", output=output, log=log, mark=mark,
                variables=variables)  # fmt: skip


def run_trainer(
    words: Sequence[str], *, what: str, output: Path, log: Path, mark: Path, variables: Mapping[str, str] | None = None
) -> None:
    """Run a Python module that trains by TRL and takes ``--output_dir`` and ``--resume_from_checkpoint``.

    Args:
        words: the module and its arguments. what: it in a user's words. variables: of its environment besides.
        output, log, mark: as for `run_trl`, which also names the errors.
    """
    line = [sys.executable, "-m", *words, "--output_dir", str(output)]
    start = resume_checkpoint(output)
    if start is not None:
        line += ["--resume_from_checkpoint", str(start)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as kept:
        kept.write(f"\n$ {' '.join(line)}\n".encode())
        with subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **(variables or {}), FOLDER_MARK: str(mark.resolve()), "PYTHONWARNINGS": _quiet()},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                while chunk := os.read(process.stdout.fileno(), 4096):
                    kept.write(chunk)
                    kept.flush()
                    sys.stderr.buffer.write(chunk)
                    sys.stderr.flush()
            except BaseException:
                end_orphans(mark)
                raise
        status = process.returncode
    if status:
        there = resume_checkpoint(output)
        raise TrainingFailed(
            f"{what} ended with status {status}: {_cause(log)}; its words are in {log}. "
            + (f"The next run goes on from {there}" if there else "It had not reached its first checkpoint")
        )


def check_options(command: str, arguments: Sequence[str]) -> Drawn:
    """Have TRL's own parser read the options before anything is computed for them; some seconds.

    Args:
        command, arguments: as for `run_trl`.
    Returns:
        what is drawn; TRL leaves out prompts that fill no batch.
    Raises:
        ConfigError: an option TRL does not know in the recipe, a value it does not take, or one this machine cannot do.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, _module(command), command, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.strip()][-1].strip()
        raise ConfigError(f"trl {command} does not take these options: {reason}")
    unknown, *drawn = json.loads(done.stdout.splitlines()[-1])
    if unknown:
        raise ConfigError(f"trl {command} does not know {', '.join(unknown)}, which the recipe holds")
    return Drawn(*drawn)


def _module(command: str) -> str:
    """The module that holds a command's parser."""
    return "aad_plugin.training.experimental" if command in COMMANDS else f"trl.scripts.{command}"


def last_checkpoint(output: Path) -> Path | None:
    """TRL's newest checkpoint that was written whole: the trainer's state, written last, can be read."""
    return max(_whole(output), default=(0, None))[1]


def resume_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint from which training ends as if it had never been broken off, if there is one.

    From one of the last step of ``max_steps`` amid an epoch, transformers' trainer (5.23) takes another step.
    """
    fitting = [(step, path) for step, path in _whole(output) if not _steps_too_far(_state(path))]
    return max(fitting, default=(0, None))[1]


def _whole(output: Path) -> list[tuple[int, Path]]:
    """Step and folder of every checkpoint that was written whole."""
    return [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in output.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and _state(path)
    ]


def _steps_too_far(state: Mapping[str, Any]) -> bool:
    epoch, epochs = state.get("epoch") or 0, state.get("num_train_epochs") or 0
    return state.get("global_step", 0) >= state.get("max_steps", math.inf) and epoch < epochs


def log_history(output: Path) -> list[dict[str, Any]]:
    """What the trainer logged up to its last checkpoint: loss, rewards/accuracies, rewards/margins by step."""
    checkpoint = last_checkpoint(output)
    return _state(checkpoint).get("log_history", []) if checkpoint else []


def end_orphans(mark: Path) -> None:
    """End the trainers that an earlier run of this folder left behind; call while holding the folder's lock."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(FOLDER_MARK) == str(mark.resolve()):
                found.append(process)
        except psutil.Error:  # ended meanwhile, or another user's
            continue
    for process in found:
        process.terminate()
    for process in psutil.wait_procs(found, timeout=_GRACE_S)[1]:
        process.kill()


def _state(checkpoint: Path) -> dict[str, Any]:
    try:
        return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _cause(log: Path) -> str:
    """The last line that names an exception, or the last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    # accelerate's own traceback about its child comes after the child's.
    errors = [line for line in lines if ("Error" in line or "error:" in line) and "CalledProcessError" not in line]
    return (errors or lines)[-1][:300]
