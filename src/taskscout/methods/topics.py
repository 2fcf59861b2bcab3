"""Topics: latent Dirichlet allocation fitted over a pool's term counts.

Topics of two tasks can be compared only if both are mixtures of the same topics, so one model
is fitted for all: each source is one document, its term counts scaled to one length, so that
large sources weigh no more than small ones. A target is described under that model without
refitting. The model depends on the sources, not on the target.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.descriptions import term_counts
from taskscout.methods.method import Description

Array = NDArray[np.float64]

#: What a pool calls the topic model that it keeps.
ATTACHED = "topics"
#: Tokens that every document is scaled to.
LENGTH = 10_000
_META = "taskscout"
#: Bytes that identify a document.
_DIGEST = 16


def _digamma(x: Array) -> Array:
    from scipy.special import psi

    out: Array = psi(x)
    return out


@dataclass(frozen=True, eq=False)
class TopicModel:
    """A fitted topic model.

    Attributes
    ----------
    weights
        Variational parameters of each topic's distribution over terms, K × V', float64.
    terms
        Token ids of the V' terms it knows.
    prior
        Of a document's mixture, per topic.
    vocabulary
        Fingerprint of the token ids (``vocabulary`` in the header of term counts).
    seed
        Of the fit.
    known
        Topic shares (K) of the documents it was fitted on, by :func:`digest`.
    """

    weights: Array
    terms: NDArray[np.int64]
    prior: float
    vocabulary: str
    seed: int = 0
    known: Mapping[bytes, Array] = field(default_factory=dict)

    @property
    def topics(self) -> int:
        """Number of topics."""
        return len(self.weights)

    @classmethod
    def fit(
        cls,
        descriptions: Iterable[Description],
        *,
        topics: int = 20,
        seed: int = 0,
        iterations: int = 10,
    ) -> TopicModel:
        """Fit by batch variational Bayes (Hoffman et al. 2010, scikit-learn).

        Parameters
        ----------
        descriptions
            Term counts (:func:`taskscout.methods.descriptions.describe_terms`) of one
            vocabulary; their order does not matter. Terms that occur in one description only
            tell nothing apart and are left out, unless there is one description only.
        topics
            K.
        seed
            Of the starting point.
        iterations
            Passes over the documents.
        """
        from scipy.sparse import csr_matrix
        from sklearn.decomposition import LatentDirichletAllocation

        # In an order of content, so that the fit is the same for any order of the pool.
        ordered = sorted(descriptions, key=digest)
        counts = np.stack([term_counts(d) for d in ordered])
        occurs = (counts > 0).sum(0)
        terms = np.flatnonzero(occurs >= min(2, len(ordered)))
        documents = _scaled(counts[:, terms])
        model = LatentDirichletAllocation(
            topics, learning_method="batch", max_iter=iterations, random_state=seed, n_jobs=1
        )
        model.fit(csr_matrix(documents))
        found = cls(
            np.asarray(model.components_, np.float64),
            terms,
            1.0 / topics,
            ordered[0].header["vocabulary"],
            seed,
        )
        return replace(found, known={digest(d): found.shares(d) for d in ordered})

    def shares(self, description: Description) -> Array:
        """Find the topic shares of one task from its term counts, K numbers that sum to 1."""
        known = self.known.get(digest(description))
        return self.mixtures(term_counts(description)[None])[0] if known is None else known

    def mixtures(self, counts: Array, *, iterations: int = 200, tolerance: float = 1e-4) -> Array:
        """Find the topic shares of documents, S × K; rows sum to 1.

        The variational expectation step for all documents at once, from an even start, until
        no document's parameters change by more than ``tolerance`` on average over topics.

        Parameters
        ----------
        counts
            Occurrences of every token id of the vocabulary, S × V.
        """
        documents = _scaled(counts[:, self.terms])
        topics = np.exp(_digamma(self.weights) - _digamma(self.weights.sum(1))[:, None])
        gamma = np.ones((len(documents), len(topics)))
        active = np.arange(len(documents))
        tiny = np.finfo(np.float64).eps
        for _ in range(iterations):
            last, x = gamma[active], documents[active]
            theta = np.exp(_digamma(last) - _digamma(last.sum(1))[:, None])
            ratio = x / (theta @ topics + tiny)
            gamma[active] = self.prior + theta * (ratio @ topics.T)
            moved = np.abs(gamma[active] - last).mean(1) > tolerance
            active = active[moved]
            if not len(active):
                break
        return np.asarray(gamma / gamma.sum(1, keepdims=True))

    # -- at rest ------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Make the content of a safetensors file (20 topics: about 2 MB)."""
        from safetensors.numpy import save

        meta = {"prior": self.prior, "vocabulary": self.vocabulary, "seed": self.seed}
        keys = sorted(self.known)
        arrays: dict[str, NDArray[Any]] = {
            "weights": self.weights.astype(np.float32),
            "terms": self.terms.astype(np.int32),
            "documents": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _DIGEST),
            "shares": np.array([self.known[k] for k in keys]).reshape(len(keys), self.topics),
        }
        out: bytes = save(arrays, {_META: json.dumps(meta, sort_keys=True)})
        return out

    def save(self, path: str | Path) -> None:
        """Write a safetensors file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def read(cls, path: str | Path) -> TopicModel:
        """Read what :meth:`save` wrote.

        Raises
        ------
        MethodError
            If the file is missing or no topic model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="numpy") as file:
                meta = json.loads(file.metadata()[_META])
                documents = file.get_tensor("documents")
                return cls(
                    file.get_tensor("weights").astype(np.float64),
                    file.get_tensor("terms").astype(np.int64),
                    float(meta["prior"]),
                    str(meta["vocabulary"]),
                    int(meta["seed"]),
                    dict(
                        zip(
                            (row.tobytes() for row in documents),
                            file.get_tensor("shares"),
                            strict=True,
                        )
                    ),
                )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MethodError(
                f"{path} cannot be read as a topic model ({type(error).__name__}).",
                "It is missing, cut short, or something else.",
                "Give a file that TopicModel.save wrote, or none: then topics are fitted anew.",
            ) from error


def _scaled(counts: Array) -> Array:
    total = counts.sum(1, keepdims=True)
    return np.asarray(counts * (LENGTH / np.maximum(total, 1.0)))


def digest(description: Description) -> bytes:
    """Make sixteen bytes that identify a description's arrays."""
    h = hashlib.blake2b(digest_size=_DIGEST)
    for name in sorted(description.arrays):
        h.update(np.ascontiguousarray(description.arrays[name]).tobytes())
    return h.digest()


def fingerprint_of(descriptions: Iterable[Description]) -> str:
    """Make a hex digest of the term counts of several sources, whatever their order and names."""
    return hashlib.blake2b(b"".join(sorted(map(digest, descriptions))), digest_size=16).hexdigest()
