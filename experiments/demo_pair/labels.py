"""Preference pairs about labels: the right label in the asked form with a short reason, against answers that miss one.

``labels.json`` holds texts written for this project with their right labels. The questions are those of the categorization
and moderation tasks; no text is one of the demo tasks', and policy and reward model share none, which tests check.

A *category* question has one right label; a *flags* question has none, one or two. To each belong two kinds of pair:
``wrong_…`` keeps the form and names other labels of the same menu, ``…_form`` breaks the form in a way small models do.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from experiments.demo_pair.pairs import Pair, balance

HELD_OUT_SHARE = 0.15
WRONG_PAIRS = 2  # per text
# what a kind of pair belongs to in reports; all others are dialogue
GROUPS = {
    "wrong_category": "categorization",
    "category_form": "categorization",
    "wrong_flags": "moderation",
    "flags_form": "moderation",
}


@dataclass(frozen=True)
class Example:
    """One text with its right labels.

    Attributes:
        form: ``category`` or ``flags``. kind: what the question calls the text.
        menu: label -> reasons that fit it (category), label -> meaning (flags).
        right: labels in the menu's order; one for a category, any number for flags.
        phrases: flags only: label -> what a text of that label does; "none" -> whole sentences.
        off_menu: labels that a reader might invent.
    """

    id: str
    form: str
    kind: str
    text: str
    menu: Mapping[str, Any]
    right: tuple[str, ...]
    phrases: Mapping[str, Sequence[str]]
    off_menu: Sequence[str]
    held_out: bool

    @property
    def prompt(self) -> str:
        """The question as the tasks ask it."""
        from aad_plugin.tasks.categorization import documents as categorization
        from aad_plugin.tasks.moderation import documents as moderation

        if self.form == "category":
            return categorization.question(self.text, self.kind, list(self.menu))
        return moderation.question(self.text, self.menu)


def load_examples(split: str) -> list[Example]:
    """Return the texts of ``policy`` or ``reward`` in file order, held-out ones drawn once with a fixed seed.

    Half of the menus keep the file's order, the others are shuffled, so that a label's place says nothing.
    """
    written = json.loads(resources.files(__package__).joinpath("labels.json").read_text(encoding="utf-8"))
    rng = random.Random(f"menus {split}")
    rows = []
    for entry in written["categorization"]:
        for label, content in entry["labels"].items():
            reasons = {name: other["reasons"] for name, other in entry["labels"].items()}
            rows += [("category", entry, reasons, text, (label,)) for text in content["texts"]]
    for entry in written["moderation"]:
        rows += [("flags", entry, entry["categories"], text, tuple(right)) for text, right in entry["texts"]]
    rows = [row for row in rows if row[1]["split"] == split]
    held_out = set(
        random.Random(f"held out labels {split}").sample(range(len(rows)), round(HELD_OUT_SHARE * len(rows)))
    )
    examples = []
    for i, (form, entry, menu, text, right) in enumerate(rows):
        names = list(menu)
        if rng.random() < 0.5:
            rng.shuffle(names)
        phrases = {} if form == "category" else {**entry["verbs"], "none": entry["none"]}
        shown = {name: menu[name] for name in names}
        ordered = tuple(name for name in names if name in right)
        kind = entry.get("kind", "text")
        examples.append(
            Example(
                f"{split}-{form}-{i:03d}", form, kind, text, shown, ordered, phrases, entry["off_menu"], i in held_out
            )
        )
    return examples


def build_label_pairs(split: str, count_tokens: Callable[[str], int], *, seed: int = 0) -> list[Pair]:
    """Return the label pairs of ``policy`` or ``reward``, train and held-out texts alike, lengths balanced by kind.

    Args:
        count_tokens: length of a text in the reference's tokens.
        seed: order and random choices.
    """
    rng = random.Random(f"{seed} labels {split}")
    longer = {kind: itertools.cycle((True, False)) for kind in GROUPS}
    pairs = []
    for example in load_examples(split):
        chosen = list(_answers(example, example.right))
        wrong = [list(_answers(example, labels)) for labels in _wrong_labels(example, rng)]
        broken = [rng.choice(_broken(example, rng))]
        kinds = ("wrong_category", "category_form") if example.form == "category" else ("wrong_flags", "flags_form")
        for kind, rejected in [*((kinds[0], texts) for texts in wrong), *((kinds[1], texts) for texts in broken)]:
            good, bad = _of_length(chosen, rejected, next(longer[kind]), count_tokens, rng)
            lengths = (count_tokens(good), count_tokens(bad))
            pairs.append(Pair(example.id, kind, example.held_out, example.prompt, good, bad, *lengths, True, True))
    rng.shuffle(pairs)
    return balance(pairs)


def _of_length(
    chosen: list[str], rejected: list[str], longer: bool, count_tokens: Callable[[str], int], rng: random.Random
) -> tuple[str, str]:
    """Draw one text of each side, the chosen one longer (or shorter) in tokens where there is such a couple."""
    couples = list(itertools.product(chosen, rejected))
    rng.shuffle(couples)
    sign = 1 if longer else -1
    return max(couples, key=lambda c: sign * (count_tokens(c[0]) - count_tokens(c[1])) > 0)


def _answers(example: Example, labels: tuple[str, ...]) -> Iterator[str]:
    """Every answer in the asked form that names `labels`, each with a reason that fits them."""
    if example.form == "category":
        yield from (f"Category: {labels[0]}\n{reason}" for reason in example.menu[labels[0]])
    else:
        named = ", ".join(labels) or "none"
        yield from (f"Categories: {named}\n{reason}" for reason in _flag_reasons(example, labels))


def _flag_reasons(example: Example, labels: tuple[str, ...]) -> Iterator[str]:
    if not labels:
        yield from example.phrases["none"]
        return
    for phrases in itertools.product(*(example.phrases[label] for label in labels)):
        yield f"The text {' and '.join(phrases)}."


def _wrong_labels(example: Example, rng: random.Random) -> list[tuple[str, ...]]:
    """Draw other labels of the same menu: for flags a missing, an added or an exchanged one."""
    menu = list(example.menu)
    if example.form == "category":
        options: list[tuple[str, ...]] = [(label,) for label in menu if label not in example.right]
    elif not example.right:
        options = [(label,) for label in menu]
    else:
        options = [(), *((label,) for label in menu)]
        if len(example.right) == 1:
            options += [tuple(label for label in menu if label in (*example.right, other)) for other in menu]
        options = [labels for labels in options if labels != example.right]
    if example.form == "flags" and example.right:  # the harmful text that passes is the likeliest mistake
        first = [()]
        rest = [labels for labels in dict.fromkeys(options) if labels]
        return [*first, *rng.sample(rest, WRONG_PAIRS - 1)]
    return rng.sample(options, WRONG_PAIRS)


def _broken(example: Example, rng: random.Random) -> list[list[str]]:
    """Ways of missing the form, each with its variants."""
    named = " and ".join(example.right) or "none"
    answers = list(_answers(example, example.right))
    reasons = [answer.partition("\n")[2] for answer in answers]
    invented = rng.choice(list(example.off_menu))
    contradiction = _wrong_labels(example, rng)[-1]
    if example.form == "category":
        word, other_word, asked = "Category", "Categories", "<name as written above>"
        sentence = f"The {example.kind} above belongs to the category {named}."
        menu = "\n".join(f"- {label}" for label in example.menu)
    else:
        word, other_word = "Categories", "Category"
        asked = "<names as written before the colons, separated by commas, or none>"
        sentence = f"The text above belongs to {named}." if example.right else "The text above is fine."
        menu = "\n".join(f"- {label}: {meaning}" for label, meaning in example.menu.items())
    return [
        [sentence, *(f"{sentence} {reason}" for reason in reasons)],
        reasons,
        [menu, *(f"{menu}\n{reason}" for reason in reasons)],
        [f"{word}: {asked}\n{reason}" for reason in reasons],
        [f"{word}: {invented}\n{reason}" for reason in reasons],
        [answer.replace(word, other_word, 1) for answer in answers],
        [f"{answer}\n\n{more}" for answer in answers for more in _answers(example, contradiction)],
        [f"{named.capitalize()}\n{reason}" for reason in reasons],
        [f"{example.text}\n{reason}" for reason in reasons] + [example.text],
        [f"Thank you for the {example.kind}. Could you tell me more about it?", "I am sorry, I cannot help with that."],
    ]
