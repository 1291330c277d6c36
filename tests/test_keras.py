"""Keras models against Keras' own predictions."""

import os

import jax
import numpy as np
import pytest

import jaxadv as ja

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="keras is an extra: pip install 'jaxadv[keras]'")
IMAGES = np.random.default_rng(0).random((12, 8, 8, 1), np.float32)
LABELS = np.arange(12) % 3


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_equals_predict_and_shares_one_program():
    traces = 0

    @jax.jit
    def call(model, images):
        nonlocal traces
        traces += 1
        return model(images)

    network_ = network()
    network_.fit(IMAGES, LABELS, epochs=1, verbose=0)
    model, before = ja.from_keras(network_), network_.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(call(model, IMAGES), before, atol=1e-5)
    network_.fit(IMAGES, LABELS, epochs=2, verbose=0)
    after = network_.predict(IMAGES, verbose=0)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(call(model, IMAGES), before, atol=1e-5)  # not touched by training
    np.testing.assert_allclose(call(ja.from_keras(network_), IMAGES), after, atol=1e-5)
    assert traces == 1


def test_weights_keep_their_places_when_others_become_trainable():
    layers = [keras.layers.Dense(64, activation="tanh") for _ in range(3)]
    network_ = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers, keras.layers.Dense(3)]
    )
    layers[0].trainable = False
    model, expected = ja.from_keras(network_), network_.predict(IMAGES, verbose=0)
    layers[0].trainable, layers[2].trainable = True, False
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-5)
    network_.trainable = False
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-5)


def test_attacks_run_on_it():
    network_ = network()
    labels = network_.predict(IMAGES, verbose=0).argmax(1)
    result = ja.run(
        ja.PGD(steps=10),
        ja.from_keras(network_),
        IMAGES,
        ja.Untargeted(labels),
        epsilon=0.5,
        key=jax.random.key(0),
    )
    fooled = network_.predict(result.images, verbose=0).argmax(1) != labels
    np.testing.assert_array_equal(result.success, fooled)
    assert result.success.any()


class Draws(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


class Normalises(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm = keras.layers.BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x, training=True)


class Counts(keras.layers.Layer):
    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


def small(*layers):
    parts = [keras.Input((8, 8, 1)), keras.layers.Reshape((8, 8)), *layers]
    return keras.Sequential([*parts, keras.layers.Flatten(), keras.layers.Dense(3)])


def test_what_a_call_changes_is_dropped():
    for layer in (Counts(), keras.layers.SimpleRNN(5, dropout=0.5)):
        network_ = small(layer)
        model, weights = ja.from_keras(network_), network_.layers[-1].kernel.numpy()
        call = jax.jit(lambda x, model=model: (model(x), jax.grad(lambda x: model(x)[0, 1])(x)))
        answer, slope = call(IMAGES)
        np.testing.assert_allclose(answer, network_.predict(IMAGES, verbose=0), atol=1e-5)
        if isinstance(layer, Counts):
            np.testing.assert_allclose(slope[0].ravel(), weights[:, 1], atol=1e-6)
            for images in (IMAGES.astype(np.float64), IMAGES.tolist()):
                np.testing.assert_allclose(model(images), answer, atol=1e-5)


def test_training_mode_that_stays_is_refused():
    for layer, said in ((Draws(), "draws at random"), (Normalises(), "batch statistics")):
        with pytest.raises(ValueError, match=said):
            ja.from_keras(small(layer))(IMAGES)


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="function"):
        ja.from_keras(lambda x: x)
    with pytest.raises(ValueError, match="not built"):
        ja.from_keras(keras.Sequential([keras.layers.Dense(3)]))
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="'torch'.*KERAS_BACKEND=jax"):
        ja.from_keras(network())
