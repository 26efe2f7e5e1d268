"""Support: how similar a record is to others that the model answered the same way.

A model may be confident about out-of-scope records: they too get some label, often with a high
probability. Token probabilities do not reflect what the batch looks like. *Support* is the greatest
cosine similarity between a record's prompt and those *references* that got the same answer: prompts
of the same batch, drawn at random, with the model's answers. An answer that the model gave to
similar records has support; an answer to a record unlike any other has none. No label is used, so
the certifying sample does not leak into it, and a record's support does not depend on the other
records of the run.

Texts are compared as TF-IDF vectors of hashed character 2- to 4-grams, so the saved calibration
holds no readable text of customers' records.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from escalation.certify.classes import apart, joined
from runner.job import id_digest
from runner.types import JSONValue, Name

_HASHES = 1 << 18
_MOST_CHARACTERS = 4_000
FEWEST = 200
"""The fewest references: with fewer, most answers would have no similar one."""


class Support:
    """The references. Immutable. ``values`` holds their answers as canonical JSON, by name; None
    where a reference has no such value. ``ids`` holds their records' ids, hashed."""

    def __init__(
        self,
        rows: sp.csr_matrix,
        idf: Any,
        values: Mapping[Name, Sequence[str | None]],
        ids: Sequence[str],
    ) -> None:
        self._rows = rows
        self._idf = idf
        self._values = {name: list(given) for name, given in values.items()}
        self._ids = list(ids)
        self._groups: dict[tuple[Name, str], sp.csr_matrix] = {}
        self._query = np.zeros(rows.shape[1], dtype=np.float32)

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        texts: Sequence[str],
        values: Sequence[Mapping[Name, JSONValue]],
    ) -> Support:
        """Builds the references from records' ids, prompts, and the model's answers by name."""
        from sklearn.preprocessing import normalize

        counts = _counts(texts)
        idf = np.log((1 + len(texts)) / (1 + counts.getnnz(axis=0))) + 1
        counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
        names = {name for given in values for name in given}
        by_name = {
            n: [key(v[n]) if n in v else None for v in values] for n in sorted(names, key=str)
        }
        rows = normalize(counts).astype(np.float32).tocsr()
        return cls(rows, idf.astype(np.float32), by_name, [id_digest(i) for i in ids])

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def of_answer(
        self, text: str, values: Mapping[Name, JSONValue], record_id: str
    ) -> dict[Name, float]:
        """The support, in [0, 1], of each name's value for a record's prompt ``text``. A record
        among the references does not support itself."""
        own = self._row_of.get(id_digest(record_id))
        row = _counts([text])
        weights = (1 + np.log(row.data)) * self._idf[row.indices]
        norm = float(np.linalg.norm(weights))
        self._query[row.indices] = weights / norm if norm else 0.0
        found = {}
        for name, value in values.items():
            alike = self._rows_of.get((name, key(value)), [])
            similar = self._group(name, key(value)) @ self._query
            if own is not None and own in alike:
                similar[alike.index(own)] = 0.0
            found[name] = min(1.0, float(similar.max(initial=0.0)))
        self._query[row.indices] = 0.0
        return found

    def _group(self, name: Name, value: str) -> sp.csr_matrix:
        """The references with this value."""
        if (name, value) not in self._groups:
            alike = self._rows_of.get((name, value), [])
            self._groups[name, value] = self._rows[alike]
        return self._groups[name, value]

    @cached_property
    def _rows_of(self) -> dict[tuple[Name, str], list[int]]:
        found: dict[tuple[Name, str], list[int]] = {}
        for name, given in self._values.items():
            for row, value in enumerate(given):
                if value is not None:
                    found.setdefault((name, value), []).append(row)
        return found

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {own: row for row, own in enumerate(self._ids)}

    def as_json(self) -> dict[str, Any]:
        """The object for a file; vectors are compressed arrays in base64."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            data=self._rows.data.astype(np.float32),
            indices=self._rows.indices.astype(np.int32),
            indptr=self._rows.indptr.astype(np.int32),
            idf=self._idf[np.unique(self._rows.indices)],
            unseen=self._idf.max(initial=0.0),
        )
        vectors = base64.b64encode(buffer.getvalue()).decode()
        return {"vectors": vectors, "values": apart(self._values), "ids": self._ids}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Support:
        """The inverse of `as_json`. Raises ValueError or KeyError if the data is malformed."""
        with np.load(io.BytesIO(base64.b64decode(data["vectors"]))) as arrays:
            indptr, indices = arrays["indptr"], arrays["indices"]
            shape = (len(indptr) - 1, _HASHES)
            rows = sp.csr_matrix((arrays["data"], indices, indptr), shape=shape)
            idf = np.full(_HASHES, arrays["unseen"], dtype=np.float32)
            idf[np.unique(indices)] = arrays["idf"]
        return cls(rows, idf, joined(data["values"]), data["ids"])


def key(value: JSONValue) -> str:
    """Canonical JSON: equal values have the same key."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _counts(texts: Sequence[str]) -> sp.csr_matrix:
    return _hashing().transform([text[:_MOST_CHARACTERS] for text in texts])


_vectorizer: Any = None


def _hashing() -> Any:
    global _vectorizer
    if _vectorizer is None:
        from sklearn.feature_extraction.text import HashingVectorizer

        _vectorizer = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(2, 4),
            n_features=_HASHES,
            norm=None,
            alternate_sign=False,
            dtype=np.float32,
        )
    return _vectorizer
