"""The kinds of classifiers that are compared, fitted at equal accuracy and on all images."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from jaxadv.core.model import Model
from jaxadv.core.optional_dependency import extra
from jaxadv.models.scikit_learn import from_sklearn
from jaxadv.studies.setting import Setting

SIZES = (4000, 2500, 1500, 1000, 600, 400, 250, 150, 100, 60)  # training images that are tried
QUICK_SKIPS = "naive Bayes", "three neighbours"  # one more of a kind that is compared anyway
EXACT, FOREST, GRADIENTS, QUERY_BASED = "proved", "programs", "gradients", "queries"


class Family(NamedTuple):
    """A kind of classifier.

    Attributes:
        how: How its nearest mistake is computed: `EXACT`, `FOREST` (mixed-integer programs with a
            time limit), `GRADIENTS` or `QUERY_BASED`.
        make: Returns an estimator that is not fitted yet.
    """

    how: str
    make: Callable[[], Any]


def families() -> dict[str, Family]:
    """Return the classifiers to compare; ImportError names the missing extra."""
    with extra("sklearn", "this study"):
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import GaussianNB
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.neural_network import MLPClassifier
        from sklearn.svm import SVC, LinearSVC
        from sklearn.tree import DecisionTreeClassifier
    return {
        "logistic regression": Family(EXACT, lambda: LogisticRegression(max_iter=300)),
        "linear SVM": Family(EXACT, lambda: LinearSVC(C=0.05, random_state=0)),
        "decision tree": Family(EXACT, lambda: DecisionTreeClassifier(random_state=0)),
        "naive Bayes": Family(GRADIENTS, lambda: GaussianNB(var_smoothing=0.1)),
        "SVM with RBF kernel": Family(GRADIENTS, lambda: SVC(gamma="scale")),
        "nearest neighbour": Family(GRADIENTS, lambda: KNeighborsClassifier(1)),
        "network, 100-100": Family(
            GRADIENTS, lambda: MLPClassifier((100, 100), max_iter=60, random_state=0)
        ),
        "three neighbours": Family(QUERY_BASED, lambda: KNeighborsClassifier(3)),
        "random forest": Family(FOREST, lambda: RandomForestClassifier(50, random_state=0)),
    }


class Fitted(NamedTuple):
    """A trained classifier.

    Attributes:
        estimator: The fitted estimator.
        model: The model to attack.
        size: Number of training images.
        accuracy: Accuracy on the test set in per cent.
    """

    estimator: Any
    model: Model
    size: int
    accuracy: float


def fit_families(setting: Setting) -> tuple[dict[str, Fitted], dict[str, Fitted]]:
    """Train each family on many images, and on as many as bring its accuracy closest to the worst.

    Quick settings try four numbers of images of ten, and seven families of nine.

    Args:
        setting: The setting.

    Returns:
        By name of the family, the classifiers of equal accuracy, and those that were all trained on
        the largest number of images.
    """
    train, test = setting.train, setting.test
    sizes = [size for size in SIZES if size <= len(train.labels)][
        2 * setting.quick :: 1 + setting.quick
    ]
    flat, unseen = (data.images.reshape(len(data.images), -1) for data in (train, test))

    kinds = families()
    if setting.quick:
        kinds = {name: family for name, family in kinds.items() if name not in QUICK_SKIPS}

    @cache
    def fit(name: str, size: int) -> Fitted:
        estimator = kinds[name].make().fit(flat[:size], train.labels[:size])
        accuracy = 100 * float(estimator.score(unseen, test.labels))
        return Fitted(estimator, from_sklearn(estimator), size, accuracy)

    def accuracy(name: str, size: int) -> float:
        """Return the accuracy, stored: a study that was stopped need not fit them all again."""
        same = name, train.images[:size], train.labels[:size], test.images, test.labels
        kept = setting.keep(
            f"accuracy/{name.replace(' ', '-')}-{size}",
            same,
            lambda: {"accuracy": fit(name, size).accuracy},
        )
        return float(kept["accuracy"])

    rates = {}
    for number, name in enumerate(kinds):
        setting.progress("train classifiers", number, len(kinds))
        rates[name] = {size: accuracy(name, size) for size in sizes}
    common = min(rate[sizes[0]] for rate in rates.values())
    best, largest = {}, {}
    for number, (name, rate) in enumerate(rates.items()):
        setting.progress("at equal accuracy", number, len(kinds))
        nearest = min(sizes, key=lambda size, rate=rate: abs(rate[size] - common))
        best[name], largest[name] = fit(name, nearest), fit(name, sizes[0])
    return best, largest
