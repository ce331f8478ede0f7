"""The process in which alpaca_eval runs: it reads orders as JSON lines, and answers each with one line.

A process of its own, because importing alpaca_eval changes the root logger and scikit-learn's global settings, reads
``.env`` files and takes seconds. Run by `alpaca_eval.py`; stands alone, so it imports nothing of this package.
"""

import json
import os
import sys
import tempfile
import types
from pathlib import Path


def main() -> None:
    """Serve orders from stdin until it ends. alpaca_eval's own prints go to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    provide_pkg_resources()
    name_the_user()
    try:
        import alpaca_eval.annotators
        import alpaca_eval.metrics  # noqa: F401
    except Exception as error:  # whatever one of its many dependencies raises
        answers.write(json.dumps({"unimportable": f"{type(error).__name__}: {error}"}) + "\n")
        answers.flush()
        return
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    annotators: dict = {}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"annotate": _annotate, "length_control": _length_control}[order["do"]](order, annotators)
        except Exception as error:  # alpaca_eval raises whatever its parts raise; the caller decides
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _annotate(order: dict, annotators: dict) -> dict:
    """Preferences 1 (output_1) to 2 (output_2) in the order of pairs, None where alpaca_eval read none; and replies."""
    from alpaca_eval.annotators import PairwiseAnnotator

    key = order["annotator"], order["randomize"]
    if key not in annotators:
        # Its cache forgets which model and prompt an annotation came from; ours does not.
        annotators[key] = PairwiseAnnotator(
            annotators_config=order["annotator"], caching_path=None, is_randomize_output_order=order["randomize"]
        )
    found = {}
    for row in annotators[key].annotate_pairs(order["pairs"]):
        found[row["instruction"], row["output_1"], row["output_2"]] = row
    rows = [found.get((p["instruction"], p["output_1"], p["output_2"]), {}) for p in order["pairs"]]
    return {
        "preferences": [_plain(row.get("preference")) for row in rows],
        "completions": [_text(row.get("preference_raw_completion")) for row in rows],
    }


def _length_control(order: dict, annotators: dict) -> dict:
    """AlpacaEval 2's length-controlled win rate; texts are stand-ins of the right length, which is all it uses."""
    import pandas as pd
    from alpaca_eval.metrics import glm_winrate

    if order["gamed"]:
        glm_winrate.hf_hub_download = lambda **_: order["gamed"]
    rows = pd.DataFrame(
        {
            "preference": [None if p is None else 1 + p for p in order["p"]],
            "output_1": ["x" * length for length in order["baseline_lengths"]],
            "output_2": ["x" * length for length in order["candidate_lengths"]],
            "generator_1": "baseline",
            "generator_2": "candidate",
            "annotator": "aad_plugin",
        }
    )
    with tempfile.TemporaryDirectory() as folder:  # its own default is inside site-packages
        figures = glm_winrate.get_length_controlled_winrate(
            rows, save_weights_dir=folder, is_warn_extreme_changes=False
        )
        saved = pd.read_csv(next(Path(folder).rglob("*.csv")), index_col=0)
    weights = {name: float(value) for name, value in saved.iloc[0].items()}
    names = ("length_controlled_winrate", "lc_standard_error")
    return {name: float(figures[name]) for name in names} | {"weights": weights}


def _plain(preference) -> float | None:
    """A number from 1 to 2, or None; 0 is how upstream once wrote a tie."""
    if preference is None or preference != preference or not (1 <= preference <= 2 or preference == 0):
        return None
    return float(preference) or 1.5


def _text(completion) -> str:
    """alpaca_eval keeps a reply as the JSON text of an object, as a plain text, or not at all."""
    if completion is None or completion != completion:
        return ""
    return completion if isinstance(completion, str) else json.dumps(completion, default=str)


def name_the_user() -> None:
    """alpaca_eval asks for the user's name when it is imported, which some containers do not have."""
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = "nobody"


def provide_pkg_resources() -> None:
    """alpaca_eval 0.6.6 imports pkg_resources, which setuptools dropped in version 82; it uses two names of it."""
    try:
        import pkg_resources  # noqa: F401
    except ImportError:
        from importlib import metadata

        from packaging.version import Version

        shim = types.ModuleType("pkg_resources")
        shim.parse_version = Version  # type: ignore[attr-defined]
        shim.get_distribution = metadata.distribution  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = shim


if __name__ == "__main__":
    main()
