"""Nonsense mixtures of words with a chosen document's topics.

A topic model represents a document as counts of words and infers its topics. Words that do not
occur in the document, in meaningless proportions, can have the same topics: the counterpart of
fooling images. The texts are the user's, or Python's own help, which ships with it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float
from scipy.optimize import lsq_linear

from jaxadv.core.files import slug
from jaxadv.core.optional_dependency import extra
from jaxadv.data.texts import WORD, paragraphs
from jaxadv.studies.findings import Findings, Part, Table, Text
from jaxadv.studies.setting import Setting

TOPICS, WORDS = 10, 40
CLOSE = 0.05  # distance below which topics count as those of the document
LONGER = 3  # factor of the length of the nonsense
ROUNDS = 30  # corrections of the amounts
EVEN = 1e-2  # weight of equal amounts, which choose among mixtures of equal topics
LEAST = 0.005  # proportion below which a topic has no word


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

    Takes, for each wanted topic, words that are mostly its own, as many as its proportion says, in
    amounts whose sum in the space of topics matches the document (least squares, corrected for what
    the model infers of the whole), rounded to integers. No word has a larger share of the nonsense
    than the most frequent word has of the document: without that bound, a word or two for each
    topic would be enough, repeated over and over.

    Args:
        model: Fitted topic model of scikit-learn (NMF or LatentDirichletAllocation), with
            `components_` [T, V].
        document: Counts [V] of the document's words.
        words: Number of distinct words to use.

    Returns:
        The mixture.

    Raises:
        ValueError: The document lacks fewer than `words` words of the vocabulary, or has no topic.
    """
    document = np.asarray(document, np.float64)
    absent = np.flatnonzero(document == 0)
    if len(absent) < words:
        raise ValueError(f"words={words}: the document lacks only {len(absent)} of the vocabulary")
    wanted = topic_proportions(model, document)[0]
    if not wanted.any():
        raise ValueError("the model infers no topic of this document: pass another")
    size = LONGER * document.sum()
    most = max(document.max() / document.sum(), 2 / words)  # share of one word
    places = absent[_candidates(model.components_[:, absent], wanted, words)]
    alone = model.transform(size * np.eye(len(document))[places]).T  # [T, W], of each word
    kept = _purest(alone / np.maximum(alone.sum(0), 1e-12), wanted, words)
    places, alone = places[kept], alone[:, kept] / alone[:, kept].sum(0).mean()
    even = np.full(len(kept), EVEN / len(kept))
    target, best = wanted, None
    for _ in range(ROUNDS):  # inference is not linear: aim beyond what was missed
        apart = alone - target[:, None] * alone.sum(0)
        rows = np.vstack([apart, np.full(len(kept), 10.0), EVEN * np.eye(len(kept))])
        goal = np.concatenate([np.zeros(len(target)), [10.0], even])
        shares = lsq_linear(rows, goal, (0, most)).x
        counts = np.zeros_like(document)
        counts[places] = np.minimum(np.rint(size * shares), np.floor(size * most + 1e-6))
        inferred = topic_proportions(model, counts)[0]
        error = 0.5 * float(np.abs(inferred - wanted).sum())
        if best is None or error < best.error:
            best = Mixture(counts, inferred, wanted, error)
        target = target * np.sqrt(wanted / np.maximum(inferred, 1e-3))
        target = target / target.sum()
    assert best is not None
    return best


def _candidates(weights: np.ndarray, wanted: np.ndarray, words: int) -> np.ndarray:
    """Return the heaviest words of each wanted topic, several times as many as it will have."""
    scaled = weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-12)
    depth = scaled * scaled / np.maximum(scaled.sum(0), 1e-12)  # heavy, and the topic's own
    counts = 4 * _numbers(wanted, words)
    heaviest = [np.argsort(-row)[:count] for row, count in zip(depth, counts, strict=True)]
    return np.unique(np.concatenate(heaviest))


def _purest(proportions: np.ndarray, wanted: np.ndarray, words: int) -> np.ndarray:
    """Return the candidates that the model infers each wanted topic of, the largest topic first."""
    counts, kept = _numbers(wanted, words), []
    for topic in np.argsort(-wanted):
        left = [w for w in np.argsort(-proportions[topic]) if w not in kept]
        kept += left[: counts[topic]]
    return np.array(kept)


def _numbers(wanted: np.ndarray, words: int) -> np.ndarray:
    """Return how many words each topic has: in proportion, and one or more where it is wanted."""
    return np.where(wanted > LEAST, np.ceil(words * wanted - 0.5).clip(1), 0).astype(int)


def corpus() -> list[str]:
    """Return paragraphs of Python's help, each a document."""
    from pydoc_data.topics import topics

    return paragraphs(topics.values())


def topics(setting: Setting) -> Findings:
    """Nonsense mixtures of words with a chosen document's topics (NMF and latent Dirichlet)."""
    with extra("sklearn", "this study"):
        from sklearn.decomposition import NMF, LatentDirichletAllocation
        from sklearn.feature_extraction.text import CountVectorizer
    texts = corpus() if setting.texts is None else list(setting.texts.texts)
    source = (
        "paragraphs of Python's own help"
        if setting.texts is None
        else f"the texts of {setting.texts.name}"
    )
    counter = CountVectorizer(token_pattern=WORD.pattern, stop_words="english", min_df=5)
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
                100 * float(np.median([one.counts.max() / one.counts.sum() for one in mixtures])),
                100 * float(np.median(counts[chosen].max(1) / counts[chosen].sum(1))),
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
        (
            "nonsense, median",
            "nonsense, worst",
            "another document",
            "random words",
            "words used",
            "most frequent word %",
            "that of the document %",
        ),
        np.array(rows),
        formats=(".4f", ".4f", ".3f", ".3f", ".1f", ".1f", ".1f"),
        note=f"{len(chosen)} documents of {len(texts):,}, {source}; {len(vocabulary):,} words, "
        f"{TOPICS} topics. Of each, the share of its most frequent word: the median. That of the "
        f"nonsense is bounded by the document's, and at least by {200 / WORDS:.0f} %.",
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
