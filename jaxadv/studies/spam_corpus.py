"""Messages for a spam filter: drawn at random, or made of the user's texts."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from jaxadv.core.optional_dependency import extra
from jaxadv.data.texts import WORD, Texts

SPAM = 1
LENGTH = 300  # size of the vocabulary
QUERIES = (50, 200, 800)  # queries of the attacker


class Corpus(NamedTuple):
    """Messages with labels.

    Attributes:
        messages: Messages, float32 [N, 1, V, 1], 1 where a word occurs.
        labels: Labels, int32 [N], 1 for spam.
    """

    messages: Float32[np.ndarray, "N 1 V 1"]
    labels: Int32[np.ndarray, " N"]


def corpus(count: int, seed: int, words: int = LENGTH) -> Corpus:
    """Draw messages from one fixed language.

    Frequencies fall as 1 / rank. A sixth of the words are four times as frequent in spam, another
    sixth four times as frequent in the rest.

    Args:
        count: Number of messages.
        seed: Seed of the draws; the language does not depend on it.
        words: Size of the vocabulary.

    Returns:
        The messages with labels.

    Example:
        >>> from jaxadv.studies.spam_corpus import corpus
        >>> corpus(5, seed=0).messages.shape
        (5, 1, 300, 1)
    """
    language = np.random.default_rng(0)
    often = language.permutation(np.minimum(0.5, 8.0 / np.arange(8, 8 + words)))
    kind = language.permutation(np.arange(words) % 6)
    draw = np.random.default_rng([1, seed])
    labels = draw.integers(0, 2, count).astype(np.int32)
    tilt = np.where(kind == 0, 2.0, np.where(kind == 1, 0.5, 1.0))
    chance = often * np.where(labels[:, None] == SPAM, tilt, 1 / tilt) / 2
    present = draw.random((count, words)) < chance
    return Corpus(present.astype(np.float32)[:, None, :, None], labels)


def corpora(texts: Texts, seed: int = 0) -> tuple[Corpus, Corpus, Corpus]:
    """Return messages for the filter, for the attacker and for the test, made of real texts.

    A message is which of the `LENGTH` most frequent words of the filter's texts occur in it. Spam
    is the class of that name, else the last one.

    Args:
        texts: The texts, of two classes or more.
        seed: Seed of the split; the attacker has `max(QUERIES)` texts, the test a third of the
            rest.

    Returns:
        The three corpora.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: There are too few texts, classes or words.
    """
    with extra("sklearn", "the spam filter"):
        from sklearn.feature_extraction.text import CountVectorizer
    asked, count = max(QUERIES), len(texts.texts)
    if count < 2 * asked or len(texts.classes) < 2:
        raise ValueError(
            f"{texts.name} has {count} texts of {len(texts.classes)} classes: the study of spam "
            f"takes {2 * asked} or more, of two classes"
        )
    spam = texts.classes.index(spam_class(texts))
    labels = (texts.labels == spam).astype(np.int32)
    order = np.random.default_rng(seed).permutation(count)
    ends = asked, asked + (count - asked) // 3
    attacker, test, training = np.split(order, ends)
    counter = CountVectorizer(token_pattern=WORD.pattern, binary=True, max_features=LENGTH)
    counter.fit([texts.texts[i] for i in training])
    words = len(counter.vocabulary_)
    if words < LENGTH:
        raise ValueError(f"{texts.name} has {words} words: the study of spam takes {LENGTH}")

    def part(rows: np.ndarray) -> Corpus:
        present: Any = counter.transform([texts.texts[i] for i in rows])
        return Corpus(present.toarray().astype(np.float32)[:, None, :, None], labels[rows])

    return part(training), part(attacker), part(test)


def spam_class(texts: Texts) -> str:
    """Return the name of the class that the filter stops: "spam", or the last one."""
    return next((name for name in texts.classes if name.lower() == "spam"), texts.classes[-1])
