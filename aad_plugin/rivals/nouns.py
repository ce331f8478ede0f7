"""Nouns and near-synonyms of English text as AMBER's own script finds them: NLTK's tagger and WordNet, spaCy's vectors.

pip install '.[amber]'
python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet
python -m spacy download en_core_web_lg
"""

from __future__ import annotations

import functools
from typing import Any

from aad_plugin.errors import BackendMissing

_MODEL = "en_core_web_lg"
_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")


class EnglishWords:
    """Implements :class:`aad_plugin.rivals.amber.Words`.

    Raises:
        BackendMissing: NLTK, spaCy or what they read is not installed; one line says what to install.
    """

    def __init__(self) -> None:
        wanted = "AMBER's descriptions are scored by NLTK and spaCy"
        try:
            import nltk
            import spacy
            from nltk.stem import WordNetLemmatizer
        except ImportError as error:
            raise BackendMissing(
                f"{wanted}, and {error.name} is not installed: pip install 'aad_plugin[amber]'"
            ) from error
        self._nltk: Any = nltk
        self._lemmatizer = WordNetLemmatizer()
        try:
            self.nouns("two dogs")
        except LookupError as error:
            raise BackendMissing(
                f"{wanted}, and NLTK's data are missing: python -m nltk.downloader {' '.join(_DATA)}"
            ) from error
        try:
            self._read: Any = functools.cache(spacy.load(_MODEL))
        except OSError as error:
            raise BackendMissing(
                f"{wanted}, and its model {_MODEL} is missing: python -m spacy download {_MODEL}"
            ) from error

    def nouns(self, text: str) -> list[str]:
        """Words that the tagger calls nouns, as WordNet lists them, in the text's order."""
        tagged = self._nltk.pos_tag(self._nltk.word_tokenize(text))
        return [self._lemmatizer.lemmatize(word) for word, tag in tagged if tag.startswith("NN")]

    def similarity(self, one: str, other: str) -> float:
        """Cosine of the words' vectors."""
        return float(self._read(one).similarity(self._read(other)))
