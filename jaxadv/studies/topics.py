"""Nonsense mixtures of words with a chosen document's topics.

A topic model represents a document as counts of words and infers its topics. Words that do not
occur in the document, in meaningless proportions, can have the same topics: the counterpart of
fooling images. The texts are Python's own help, which ships with it.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from jaxadv.core.files import slug
from jaxadv.core.optional_dependency import extra
from jaxadv.studies.findings import Findings, Part, Table, Text
from jaxadv.studies.setting import Setting

TOPICS, WORDS = 10, 40
CLOSE = 0.05  # distance below which topics count as those of the document
LONGER = 3  # factor of the length of the nonsense


class Mixture(NamedTuple):
    """A nonsense mixture of words.

    Attributes:
        counts: Count of each word in the nonsense, [V].
        topics: Topic proportions that the model infers from it, [T].
        wanted: Topic proportions that the model infers from the document, [T].
        error: Half of the sum of their absolute differences, 0 to 1.
    """

    counts: Float[np.ndarray, " V"]
    topics: Float[np.ndarray, " T"]
    wanted: Float[np.ndarray, " T"]
    error: float


class TopicModel(Protocol):
    """A fitted topic model, as scikit-learn's NMF and LatentDirichletAllocation.

    Attributes:
        components_: Weights of the words in each topic, [T, V].
    """

    components_: Any

    def transform(self, X: Any) -> Any:
        """Return topic weights [N, T] for counts [N, V]."""
        ...


def topic_proportions(model: TopicModel, counts: np.ndarray) -> Float[np.ndarray, "N T"]:
    """Return the topic proportions [N, T] that a topic model infers from counts [N, V]."""
    weights = model.transform(np.atleast_2d(counts).astype(np.float64))
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)


def nonsense(model: TopicModel, document: np.ndarray, words: int = WORDS) -> Mixture:
    """Compute counts of words that the document does not have, with its topics.

    Takes the words with the largest weight in the wanted topics, in amounts whose sum in the space
    of topics matches the document (least squares without negative counts), rounded to integers.

    Args:
        model: Fitted topic model of scikit-learn (NMF or LatentDirichletAllocation), with
            `components_` [T, V].
        document: Counts [V] of the document's words.
        words: Number of distinct words to use.

    Returns:
        The mixture.

    Raises:
        ValueError: The document lacks fewer than `words` words of the vocabulary.
    """
    document = np.asarray(document, np.float64)
    absent = np.flatnonzero(document == 0)
    if len(absent) < words:
        raise ValueError(f"words={words}: the document lacks only {len(absent)} of the vocabulary")
    wanted = topic_proportions(model, document)[0]
    topics = model.components_ / np.maximum(model.components_.sum(0), 1e-12)  # of each word
    weight = model.components_[:, absent].sum(0)
    # The heaviest words of each wanted topic, in proportion; words of two topics count too.
    depth = (wanted[:, None] * topics[:, absent]).max(0) * weight
    chosen = absent[np.argsort(-depth)[:words]]
    alone = _inferred(model, chosen, len(document))
    size = LONGER * document.sum()
    best, target = None, wanted
    for _ in range(30):  # inference is not linear: correct by the residual
        amounts, _ = nnls(alone, np.maximum(target, 0))
        counts = np.zeros_like(document)
        counts[chosen] = np.rint(size * amounts / max(amounts.sum(), 1e-12))
        inferred = topic_proportions(model, counts)[0]
        error = 0.5 * float(np.abs(inferred - wanted).sum())
        if best is None or error < best.error:
            best = Mixture(counts, inferred, wanted, error)
        target = target + 0.5 * (wanted - inferred)
    assert best is not None
    return best


def _inferred(model: TopicModel, chosen: np.ndarray, size: int) -> np.ndarray:
    """Return the topic weights [T, W] that the model infers of each of these words alone."""
    return model.transform(np.eye(size)[chosen]).T


def corpus() -> list[str]:
    """Return paragraphs of Python's help, each a document."""
    from pydoc_data.topics import topics

    parts = [part for text in topics.values() for part in re.split(r"\n\s*\n", text)]
    return [part for part in parts if len(re.findall(r"[a-z]{3,}", part)) >= 25]


def topics(setting: Setting) -> Findings:
    """Nonsense mixtures of words with a chosen document's topics (NMF and latent Dirichlet)."""
    with extra("sklearn", "this study"):
        from sklearn.decomposition import NMF, LatentDirichletAllocation
        from sklearn.feature_extraction.text import CountVectorizer
    texts = corpus()
    counter = CountVectorizer(token_pattern=r"[a-z]{3,}", stop_words="english", min_df=5)
    counted: Any = counter.fit_transform(texts)
    counts = counted.toarray().astype(np.float64)
    vocabulary = counter.get_feature_names_out()
    chosen = np.argsort(-counts.sum(1))[: 10 if setting.quick else 40]  # the longest documents
    rows, parts, names = [], [], []
    rng = np.random.default_rng(0)
    for name, model in (
        ("NMF", NMF(TOPICS, init="nndsvda", max_iter=400, random_state=0)),  # type: ignore[arg-type]
        ("latent Dirichlet", LatentDirichletAllocation(n_components=TOPICS, random_state=0)),
    ):
        setting.progress(f"topics of {name}", 0, 1)
        model.fit(counts)
        mixtures = []
        for i in chosen:
            same = name, counts[i], np.asarray(model.components_)
            made = partial(_nonsense_of, model, counts[i])
            mixtures.append(_mixture(setting.keep(f"topics/{slug(name)}-{i}", same, made)))
        other = topic_proportions(model, counts[rng.permutation(len(counts))[: len(chosen)]])
        random = np.zeros((len(chosen), counts.shape[1]))
        for row in random:
            row[rng.choice(counts.shape[1], WORDS, replace=False)] = 1
        wanted = np.array([one.wanted for one in mixtures])
        distances = [
            0.5 * np.abs(proportions - wanted).sum(1)
            for proportions in (other, topic_proportions(model, random))
        ]
        errors = np.array([one.error for one in mixtures])
        rows.append(
            [
                np.median(errors),
                errors.max(),
                np.median(distances[0]),
                np.median(distances[1]),
                float(np.mean([(one.counts > 0).sum() for one in mixtures])),
            ]
        )
        names.append(name)
        best = int(errors.argmin())
        most = np.argsort(-mixtures[best].counts)[:12]
        words = vocabulary[most[mixtures[best].counts[most] > 0]]
        first = " ".join(texts[chosen[best]].split())[:160]
        parts.append(
            Text(
                topics_in_words(
                    name, f"“{first} …”", tuple(words), errors, (distances[0], distances[1])
                )
            )
        )
    table: Part = Table(
        "Distance of the topics inferred from those of the document (0: the same, 1: none shared)",
        tuple(names),
        ("nonsense, median", "nonsense, worst", "another document", "random words", "words used"),
        np.array(rows),
        formats=(".4f", ".4f", ".3f", ".3f", ".1f"),
        note=f"{len(chosen)} documents of {len(texts):,}, paragraphs of Python's own help; "
        f"{len(vocabulary):,} words, {TOPICS} topics",
    )
    return Findings("classifiers.topics", "Nonsense with a document's topics", [table, *parts])


def _nonsense_of(model: TopicModel, document: np.ndarray) -> dict[str, Any]:
    return nonsense(model, document)._asdict()


def _mixture(kept: dict[str, np.ndarray]) -> Mixture:
    return Mixture(**{**kept, "error": float(kept["error"])})


def topics_in_words(
    name: str,
    text: str,
    words: Sequence[str],
    errors: np.ndarray,
    controls: tuple[np.ndarray, np.ndarray],
) -> str:
    """Return whether nonsense has a document's topics.

    Args:
        name: Name of the topic model.
        text: Beginning of the document whose nonsense came nearest.
        words: Most frequent words of that nonsense.
        errors: Distance of the nonsense's topics from those of each document.
        controls: The same of other documents, and of random words.

    Returns:
        The paragraph.
    """
    other, random = (float(np.median(control)) for control in controls)
    middle = float(np.median(errors))
    nearer = float((errors < np.minimum(*controls)).mean())
    verdict = (
        "Nonsense has" if middle < CLOSE and nearer > 0.5 else "It is not shown that nonsense has"
    )
    return (
        f"{name}: the nonsense nearest to {text}, in distance {errors.min():.4f}, is: "
        f"{', '.join(words)} (none of these words is in the text). Over all documents the median "
        f"is {middle:.4f}; of another document it is {other:.3f}, of random words {random:.3f}. "
        f"Nonsense is nearer than both for {100 * nearer:.0f} % of the documents. {verdict} the "
        "topics of a document."
    )
