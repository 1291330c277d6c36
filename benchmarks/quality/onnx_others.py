"""`python -m benchmarks.quality.onnx_others`: ONNX files of scikit-learn and Keras.

Does `from_onnx` read what they export?

Estimators of scikit-learn of two and three classes, fitted on random rows and exported by skl2onnx:
the share of rows that get the same label, the largest difference of the scores from onnxruntime, or
the reason why the file is not read. Networks of Keras with random weights, exported by
`model.export(format="onnx")` on its torch backend: the largest difference of the logits of three
images, relative to the largest. "-" where the exporter itself refuses.

It needs skl2onnx, onnxruntime, and for Keras torch and onnxscript.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from sklearn import discriminant_analysis, ensemble, linear_model, naive_bayes, neural_network, svm
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import jaxadv as ja
from benchmarks.common import arguments, show

ROWS, FEATURES = 90, 6
SIDE = 32

ESTIMATORS: dict[str, Callable[[], Any]] = {
    "LogisticRegression": linear_model.LogisticRegression,
    "StandardScaler, LogisticRegression": lambda: make_pipeline(
        StandardScaler(), linear_model.LogisticRegression()
    ),
    "MinMaxScaler, MLPClassifier": lambda: make_pipeline(
        MinMaxScaler(), neural_network.MLPClassifier((8,), max_iter=50)
    ),
    "SGDClassifier": linear_model.SGDClassifier,
    "RidgeClassifier": linear_model.RidgeClassifier,
    "LinearSVC": svm.LinearSVC,
    "LinearSVC, calibrated": lambda: CalibratedClassifierCV(svm.LinearSVC(), cv=2),
    "LinearDiscriminantAnalysis": discriminant_analysis.LinearDiscriminantAnalysis,
    "GaussianNB": naive_bayes.GaussianNB,
    "SVC": lambda: svm.SVC(kernel="linear"),
    "RandomForestClassifier": lambda: ensemble.RandomForestClassifier(5),
}


def of_estimator(estimator: Any, classes: int, file: Path) -> str:
    """The share of equal labels and the difference of the scores, or what went wrong."""
    from skl2onnx import to_onnx

    draw = np.random.default_rng(0).standard_normal
    rows, weights = draw((ROWS, FEATURES), np.float32), draw(FEATURES)
    labels = np.digitize(rows @ weights, [0.0] if classes == 2 else [-1.0, 1.0])
    estimator.fit(rows, labels)
    try:
        file.write_bytes(to_onnx(estimator, rows[:1]).SerializeToString())
    except Exception:
        return "-"
    try:
        model = ja.from_onnx(file, bounds=(-np.inf, np.inf))
    except ValueError as error:
        return str(error)
    scores = np.asarray(model(rows))
    session = onnxruntime.InferenceSession(str(file))
    given = session.run(None, {session.get_inputs()[0].name: rows})[1]
    if isinstance(given, list):  # of dicts, class: score
        given = np.array([[row[label] for label in range(classes)] for row in given])
    if given.shape[1] == 1:
        given = np.concatenate([np.zeros_like(given), given], 1)
    same = float((scores.argmax(1) == estimator.predict(rows)).mean())
    return f"{100 * same:.0f} % equal, {np.abs(scores - given).max() / np.abs(given).max():.0e}"


def keras_networks() -> Iterator[tuple[str, Any]]:
    """Small networks of Keras."""
    import keras  # pyright: ignore[reportMissingImports]
    from keras import layers  # pyright: ignore[reportMissingImports]

    entrance = keras.Input((SIDE, SIDE, 3))

    def chain(*parts: Any) -> Any:
        return keras.Sequential([entrance, *parts])

    yield "dense", chain(layers.Flatten(), layers.Dense(16, "gelu"), layers.Dense(4))
    yield (
        "convolutions",
        chain(
            layers.Conv2D(8, 3, 2, "same"), layers.BatchNormalization(), layers.ReLU(),
            layers.MaxPooling2D(), layers.DepthwiseConv2D(3, padding="same"),
            layers.GlobalAveragePooling2D(), layers.Dense(4),
        ),
    )  # fmt: skip
    yield "LSTM", chain(layers.Reshape((SIDE, 3 * SIDE)), layers.LSTM(6), layers.Dense(4))
    options: dict[str, Any] = {"input_shape": (SIDE, SIDE, 3), "weights": None, "classes": 4}
    options["classifier_activation"] = None
    yield "MobileNetV2", keras.applications.MobileNetV2(alpha=0.35, **options)
    yield "ResNet50", keras.applications.ResNet50(**options)


def of_keras(network: Any, file: Path) -> str:
    """The difference of the logits of three images, or what went wrong."""
    import keras  # pyright: ignore[reportMissingImports]

    images = np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32)
    expected = keras.ops.convert_to_numpy(network(images, training=False))
    try:
        network.export(str(file), format="onnx", verbose=False)
    except Exception:
        return "-"
    try:
        logits = np.asarray(ja.from_onnx(file)(images))
    except ValueError as error:
        return str(error)
    return f"{np.abs(logits - expected).max() / np.abs(expected).max():.0e}"


def main() -> None:
    arguments(__doc__).parse_args()
    warnings.filterwarnings("ignore")
    os.environ["KERAS_BACKEND"] = "torch"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        rows = [
            [name, *(of_estimator(build(), classes, file) for classes in (2, 3))]
            for name, build in ESTIMATORS.items()
        ]
        show("scikit-learn, exported by skl2onnx", ["estimator", "2 classes", "3 classes"], rows)
        nets = [[name, of_keras(network, file)] for name, network in keras_networks()]
        show("Keras, exported on its torch backend", ["network", "difference"], nets)


if __name__ == "__main__":
    main()
