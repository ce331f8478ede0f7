"""Judge prompts in the language judged: which template an answer is asked about in, and what stands in for a missing one.

The language is found by py3langid over the answers (and the prompt, where they are short). Of a language without a
template the English one asks, and the verdict says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from aad_plugin.errors import BackendMissing, ConfigError
from aad_plugin.judges.asking.templates import Template, load_template
from aad_plugin.judges.asking.wording import ENGLISH, languages_of
from aad_plugin.judges.items import Question
from aad_plugin.texts.messages import Reply, as_text

AUTO = "auto"
_ENOUGH = 20  # letters; below, an identifier guesses
_SURE = 0.6
_UNKNOWN = "unknown"


class Tongues:
    """A template in every language it comes in.

    Args:
        name: of the template. language: a code of two letters for all questions, or "auto" to look at each.
        options: of `load_template`.
    Attributes:
        mark: what belongs to a judge's fingerprint; empty where all is asked in English, as it is without a language.
    Raises:
        ConfigError: the language is no code; BackendMissing: "auto" without py3langid.
    """

    def __init__(self, name: str, language: str, **options: Any):
        if language != AUTO and not (isinstance(language, str) and re.fullmatch("[a-z]{2}", language)):
            raise ConfigError(f"language is auto or a code of two small letters such as de, got {language!r}")
        self.language = language
        own = [ENGLISH] if name.endswith(".txt") else languages_of(name)
        needed = [one for one in own if language == AUTO or one in (language, ENGLISH)]
        self.by_language: dict[str, Template] = {one: load_template(name, language=one, **options) for one in needed}
        if language == AUTO:
            _identifier()
        hashes = sorted(template.hash for template in self.by_language.values())
        self.mark = [language, *hashes] if needed != [ENGLISH] else []

    def template(self, question: Question) -> Template:
        """The template to ask a question in."""
        return self.by_language.get(self._found(question.first, question.second), self.by_language[ENGLISH])

    def told(self, first: Reply, second: Reply | None) -> str:
        """The language of a pair of answers; with what stands in for it where there is no template."""
        found = self._found(first, second)
        return found if found in self.by_language else f"{found}, asked in {ENGLISH}"

    def _found(self, first: Reply, second: Reply | None) -> str:
        if self.language != AUTO:
            return self.language
        # Both orders of a pair must be asked in one language, so the texts are sorted.
        return language_of_text("\n".join(sorted(as_text(text) for text in (first, second or "") if text)))


def language_of_text(text: str) -> str:
    """The language of a text as a code of two letters; "unknown" for few letters or where none is likely enough."""
    if sum(letter.isalpha() for letter in text) < (_ENOUGH if text.isascii() else _ENOUGH // 2):
        return _UNKNOWN
    code, probability = _identifier()(text)
    return str(code) if probability >= _SURE else _UNKNOWN


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise BackendMissing(
            "judging in the language of the answers needs py3langid: pip install 'aad_plugin[judges]', or name one "
            "language, e.g. --language de"
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify
