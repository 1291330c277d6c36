"""A label-only spam filter, fooled by added words through a surrogate (Papernot et al. 2016).

The filter is scikit-learn's naive Bayes, on the user's texts or on a corpus that is drawn at
random, word by word. The attacker queries the filter with
its own messages, trains a network on the labels (arXiv 1602.02697), and adds the words that this
network classifies as innocent. Success is measured on the filter.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxadv.attacks import MIFGSM
from jaxadv.attacks.common.gradient import GradientState
from jaxadv.core.attack import Problem
from jaxadv.core.goals import Untargeted
from jaxadv.core.model import Model, from_function
from jaxadv.core.optional_dependency import extra
from jaxadv.core.pytree import pytree
from jaxadv.core.result import Status
from jaxadv.core.typing import Number
from jaxadv.data import Dataset
from jaxadv.engine.run import run
from jaxadv.engine.verify import predict
from jaxadv.models.adapters import from_linen
from jaxadv.models.definitions import get_definition
from jaxadv.models.train import train
from jaxadv.studies.findings import Curves, Findings, Part, Table, Text
from jaxadv.studies.setting import Setting
from jaxadv.studies.spam_corpus import LENGTH, QUERIES, SPAM, Corpus, corpora, corpus, spam_class
from jaxadv.studies.wording import side, tally

ADDED = (1, 2, 4, 8, 16)  # words added to a message


def fitted_filter(data: Corpus) -> Model:
    """Return a naive Bayes filter that outputs labels only.

    Args:
        data: Messages to train on.

    Returns:
        The filter.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    with extra("sklearn", "the spam filter"):
        from sklearn.naive_bayes import BernoulliNB
    model = BernoulliNB().fit(data.messages.reshape(len(data.labels), -1), data.labels)
    return from_function(_Labels(model), differentiable=False, classes=2)


class _Labels(NamedTuple):
    """Function from messages to the labels that a classifier of scikit-learn predicts."""

    model: Any

    def __call__(self, messages: np.ndarray) -> np.ndarray:
        return self.model.predict(messages.reshape(len(messages), -1)).astype(int)


@pytree
class AddWords(MIFGSM):
    """Momentum ascent that only adds words, one a step: a message keeps all its words."""

    def climb(
        self, problem: Problem, state: GradientState, gradient: Float[Array, "..."]
    ) -> GradientState:
        return super().climb(problem, state, jnp.maximum(gradient, 0))

    def project(self, problem: Problem, image: Array, radius: Number | None = None) -> Array:
        return super().project(problem, jnp.maximum(image, problem.image), radius)


def add_words(count: int) -> AddWords:
    """Return the attack that adds `count` words: each step sets the one of steepest ascent."""
    return AddWords(norm="l0", steps=count, step_size=1.0, sparsity=1 / (2 * LENGTH))


def surrogate_of(target: Model, messages: np.ndarray, seed: int) -> Model:
    """Train a network on the labels that the filter gives these messages: one query each."""
    labels = predict(target, messages).argmax(1).astype(np.int32)
    data = Dataset(messages, labels, np.arange(len(labels)), "asked", ("ham", "spam"))
    module = get_definition("FC")(widths=(32,), classes=2)
    epochs = max(20, 10_000 // len(labels))
    variables = train(module, data, epochs=epochs, batch_size=50, key=jax.random.key(seed))
    return from_linen(module, variables)


def with_words(
    messages: Float[np.ndarray, "N 1 V 1"], preference: np.ndarray, count: int
) -> Float[np.ndarray, "N 1 V 1"]:
    """Return the messages with the most preferred words added that they lack.

    Args:
        messages: Messages [N, 1, V, 1].
        preference: Preference for each word, of a shape that broadcasts to the messages.
        count: Number of words to add.

    Returns:
        The changed messages.

    Example:
        >>> import numpy as np
        >>> from jaxadv.studies.spam import with_words
        >>> message = np.array([1.0, 0, 0, 0]).reshape(1, 1, 4, 1)
        >>> with_words(message, np.array([9, 1, 3, 2]).reshape(1, 1, 4, 1), 2).ravel()
        array([1., 0., 1., 1.])
    """
    order = np.argsort(np.where(messages > 0, np.inf, -preference), 2)
    changed = messages.copy()
    np.put_along_axis(changed, order[:, :, :count], 1.0, 2)
    return changed


def spam_filter(setting: Setting) -> Findings:
    """A label-only spam filter, fooled by words that a surrogate chose."""
    if setting.texts is None:
        known, attacker, test = corpus(4_000, 0), corpus(max(QUERIES), 1), corpus(2_000, 2)
        source = "The messages are drawn at random, word by word, from a made-up language"
    else:
        known, attacker, test = corpora(setting.texts)
        source = (
            f"The messages are the texts of {setting.texts.name}, by their {LENGTH} most frequent "
            f"words; spam is {spam_class(setting.texts)!r}"
        )
    target = fitted_filter(known)
    predicted = predict(target, test.messages).argmax(1)
    error = 100 * float((predicted != test.labels).mean())
    spam = test.messages[(test.labels == SPAM) & (predicted == SPAM)][: setting.examples]
    through = np.zeros((setting.seeds, len(QUERIES), len(ADDED)))
    agreement = np.zeros((setting.seeds, len(QUERIES)))
    random = np.zeros((setting.seeds, len(ADDED)))

    def passes(messages: np.ndarray) -> float:
        verdict = predict(target, messages).argmax(1)
        return 100 * float((verdict != SPAM).mean())

    for seed in range(setting.seeds):
        for row, queries in enumerate(QUERIES):
            asked = attacker.messages[:queries]
            agreement[seed, row], through[seed, row] = _through_surrogate(
                setting, target, asked, (test.messages, predicted), spam, seed
            )
        drawn = np.random.default_rng(seed).random(spam.shape)
        random[seed] = [passes(with_words(spam, drawn, count)) for count in ADDED]
    labels = predict(target, attacker.messages).argmax(1)
    innocent, stopped = (attacker.messages[labels == kind].mean(0) for kind in (1 - SPAM, SPAM))
    common = np.array([passes(with_words(spam, (innocent - stopped)[None], n)) for n in ADDED])
    rows = (
        *(f"surrogate, {n} queries" for n in QUERIES),
        f"word frequencies, {max(QUERIES)} queries",
        "random words",
    )
    values = np.concatenate([through.mean(0), common[None], random.mean(0)[None]])
    spread = np.concatenate([through.std(0), np.zeros((1, len(ADDED))), random.std(0)[None]])
    parts: list[Part] = [
        Table(
            "Spam that passes the filter, per cent, by words added",
            rows,
            tuple(f"{n} added" for n in ADDED),
            values,
            spread,
            formats=".1f",
            note=f"{len(spam)} messages of {spam.sum((1, 2, 3)).mean():.0f} words on average "
            f"that the filter stops; it errs on {error:.1f} % of new messages. Each message "
            f"keeps all its words. {setting.seeds} surrogates a row. {source}.",
        ),
        Curves(
            "Spam that passes",
            "words added",
            "per cent",
            {name: np.stack([ADDED, line]) for name, line in zip(rows, values, strict=True)},
            log="x",
            dashed=rows[-2:],
        ),
        Text(spam_in_words(agreement.mean(0), values, len(spam))),
    ]
    return Findings("transfer.spam", "A label-only spam filter, fooled by added words", parts)


def _through_surrogate(
    setting: Setting,
    target: Model,
    asked: np.ndarray,
    test: tuple[np.ndarray, np.ndarray],
    spam: np.ndarray,
    seed: int,
) -> tuple[float, np.ndarray]:
    """Return how far a surrogate agrees with the filter, and what its words bring through.

    Args:
        setting: The setting, whose folder stores the surrogate's agreement and each success.
        target: The filter.
        asked: The attacker's messages, whose labels it asks for.
        test: New messages, and their labels by the filter.
        spam: Messages that the filter stops.
        seed: Seed of the surrogate.

    Returns:
        The agreement, and the successes by `ADDED`, in per cent.
    """
    trained: list[Model] = []  # when the first attack needs it

    def surrogate() -> Model:
        if not trained:
            setting.progress(f"surrogate of {len(asked)} queries", 0, 1)
            trained.append(surrogate_of(target, asked, seed))
        return trained[0]

    def agreement() -> dict[str, float]:
        return {"rate": 100 * float((predict(surrogate(), test[0]).argmax(1) == test[1]).mean())}

    def attack(count: int) -> dict[str, float]:
        goal = Untargeted(np.full(len(spam), SPAM, np.int32))
        key, most = jax.random.key(seed), float(count)
        result = run(add_words(count), surrogate(), spam, goal, most, key=key, judge=target)
        if (result.status == Status.NOT_RUN).any():
            raise KeyboardInterrupt  # a partial result must not be stored as a complete one
        assert (result.images >= spam).all()
        return {"rate": 100 * float(result.success.mean())}

    name, same = f"spam/{len(asked)}-{seed}", (asked, *test, spam, seed)
    rates = [setting.keep(name, same, agreement)["rate"]]
    for column, count in enumerate(ADDED):
        setting.progress("add words", column, len(ADDED))
        rates.append(setting.keep(f"{name}-{count}", same, partial(attack, count))["rate"])
    return float(rates[0]), np.array(rates[1:], float)


def spam_in_words(agreement: np.ndarray, values: Float[np.ndarray, "R C"], count: int) -> str:
    """Return whether the surrogates' words do more than frequent words, and than random ones.

    Args:
        agreement: Agreement of the surrogates with the filter in per cent, by `QUERIES`.
        values: Spam that passes in per cent: surrogates by `QUERIES`, then word frequencies, then
            random words; columns: `ADDED`.
        count: Number of messages.

    Returns:
        The paragraph.
    """
    best, frequent, random = values[len(QUERIES) - 1], values[-2], values[-1]
    added = tuple(f"{n} added" for n in ADDED)

    def beyond(control: np.ndarray, sign: int) -> str:
        pairs = zip(best, control, strict=True)
        return tally(added, [side(*pair, count) == sign for pair in pairs], "columns")

    return (
        "The attacker sees only the filter's labels. The surrogates agree with it on "
        + ", ".join(f"{a:.1f} % ({n} queries)" for a, n in zip(agreement, QUERIES, strict=True))
        + f" of new messages. The words of the surrogate of {max(QUERIES)} queries do more than "
        f"random words, beyond their 95 % intervals, in {beyond(random, 1)}; more than word "
        f"frequencies in {beyond(frequent, 1)}, less in {beyond(frequent, -1)}. The filter sees "
        "which words occur; the page shows nothing of filters that see order, senders or links."
    )
