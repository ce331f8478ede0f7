"""Make the example of docs/alpaca_eval.md: the demo pair, a loopback judge, every step as a user types it.

    make alpaca-example        (python -m tests.alpaca.example docs/examples/alpaca_eval)

The judge is a planted one (`tests/judges/planted.py`): it prefers answers that take up the instruction's words, so that
the example needs no key and says nothing about the pair.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.judges.loopback import Loopback, serving

INSTRUCTIONS = [
    "Explain to a child why the moon seems to change its shape.",
    "Write two sentences that thank a colleague for covering a shift.",
    "List three ways to keep a bicycle chain from rusting.",
    "What should I check before I lend a friend my car?",
    "Suggest a name for a bakery by the sea and say why it fits.",
    "How do I tell whether an egg is still fresh?",
    "Summarise in one sentence what a library is good for.",
    "Give me a short warm-up for an evening run.",
]
BUDGET = "64"


def main() -> None:
    """Run all steps into a folder that is made anew, and keep what a user would submit."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        instructions = work / "instructions.json"
        rows = [{"dataset": "example", "instruction": text} for text in INSTRUCTIONS]
        instructions.write_text(json.dumps(rows, indent=2) + "\n")
        for strategy in ("greedy", "aad"):
            aad("generate", "--pair", "demo", "--strategy", strategy, "--name", f"demo-{strategy}", "--output",
                work / strategy, "--instructions", instructions, "--max-new-tokens", BUDGET)  # fmt: skip
        reference = work / "greedy" / "model_outputs.json"
        with serving(Loopback(judge="fair")) as url:
            aad("annotate", "--outputs", work / "aad", "--reference", reference, "--output", work / "judged", "--judge",
                "openai:planted", "--base-url", url)  # fmt: skip
        made = [
            "--outputs",
            work / "aad",
            "--annotations",
            work / "judged" / "annotations.json",
            "--instructions",
            reference,
        ]
        aad("export", *made, "--output", work / "submission", "--pretty-name", "Demo pair, AAD")
        aad("export", *made, "--output", work / "every_eval_ever", "--to", "every-eval-ever", "--model-id",
            "example/demo-aad", "--organization", "aad_plugin's example")  # fmt: skip
        log = [
            aad("leaderboard", "--annotations", made[3], "--instructions", reference),
            aad("lint", work / "submission", "--instructions", reference),
        ]
        (work / "leaderboard_and_lint.txt").write_text("\n".join(log))
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copy(instructions, target)
        shutil.copy(reference, target / "reference_model_outputs.json")
        shutil.copy(work / "aad" / "generation.json", target)
        shutil.copy(work / "leaderboard_and_lint.txt", target)
        for part in ("submission", "every_eval_ever"):
            shutil.copytree(work / part, target / part)


def aad(*arguments: object) -> str:
    """One command, shown; its output."""
    command = ["aad", "alpaca-eval", *map(str, arguments)]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    environment = os.environ | {"COLUMNS": "110"}
    done = subprocess.run(
        [sys.executable, "-m", "aad_plugin.cli", *command[1:]], stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
