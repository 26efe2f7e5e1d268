"""Groups the undecided records into themes by the words that they share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from runner.ledger import Ledger
from runner.report.texts import Texts

FEWEST = 30
MOST = 800
WORDS = 5
DIMENSIONS = 10
_PLACEHOLDER = re.compile(r"\[[A-Z][\w.]*\]")


@dataclass(frozen=True, slots=True)
class Theme:
    words: Sequence[str]
    count: int
    share: float


def themes(ledger: Ledger, texts: Texts) -> list[Theme]:
    """Of the records that wait or are in review though a local answer was tried; the largest
    first, none where they are few. Of very many, `MOST` stand for all."""
    found = list(_texts(ledger, texts))
    if len(found) < FEWEST:
        return []
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    vectorizer = TfidfVectorizer(
        stop_words="english",
        min_df=2,
        max_df=0.5,
        sublinear_tf=True,
        token_pattern=r"(?u)\b[^\W\d_]{3,}\b",
    )
    try:
        matrix = vectorizer.fit_transform(found)
    except ValueError:  # no two of them share a word
        return []
    # Short texts share few words: what they are about shows better in fewer dimensions.
    dimensions = min(DIMENSIONS, matrix.shape[1] - 1, len(found) - 1)
    if dimensions < 2:
        return []
    reduced = normalize(TruncatedSVD(dimensions, random_state=0).fit_transform(matrix))
    number = min(8, max(3, round((len(found) / 8) ** 0.5)))
    labels = KMeans(n_clusters=number, n_init=4, random_state=0).fit(reduced).labels_
    names = vectorizer.get_feature_names_out()
    return [
        Theme(_words(matrix, labels == label, names), count, count / len(found))
        for label, count in Counter(int(label) for label in labels).most_common()
    ]


def _words(matrix: Any, among: Any, names: Any) -> list[str]:
    """The words that set these rows of the TF-IDF matrix (texts, words) apart from the others."""
    weights = matrix[among].mean(axis=0).A1 - matrix.mean(axis=0).A1
    return [str(names[n]) for n in weights.argsort()[::-1][:WORDS] if weights[n] > 0]


def _texts(ledger: Ledger, texts: Texts) -> Iterator[str]:
    for record in ledger.answers.unsettled(MOST):
        shown = texts.shown(record)
        if shown.text is not None:
            yield _PLACEHOLDER.sub(" ", shown.text)
