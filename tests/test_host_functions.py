"""Functions on the host: every answer is a right value or one clear error, wherever it is met."""

import logging
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from tests.common import GOAL, IMAGES, KEY, MODEL, on_the_host

LABELS = on_the_host(IMAGES).argmax(1)
TWO = jax.local_devices()[:2]
BUFFER = np.zeros((1024, 4), np.float32)


def model_of(function: Any, classes: int | None = 4) -> ja.Model:
    return ja.from_function(function, differentiable=False, classes=classes)


def labels_of(images: Any) -> Any:
    return on_the_host(images).argmax(1)


def normalises_in_place(images: Any) -> Any:
    images -= 0.5
    images += 0.5
    return on_the_host(images)


def reuses_a_buffer(images: Any) -> Any:
    BUFFER[: len(images)] = on_the_host(images)
    return BUFFER[: len(images)]


class WithoutHash:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, images: Any) -> Any:
        return on_the_host(images)


@pytest.mark.parametrize(
    "function",
    [
        on_the_host,
        labels_of,
        normalises_in_place,
        reuses_a_buffer,
        WithoutHash(),
        lambda x: on_the_host(x).tolist(),
        lambda x: on_the_host(x).astype(np.float64),
        lambda x: jnp.asarray(on_the_host(x)),
        lambda x: labels_of(x).tolist(),
        lambda x: labels_of(x).astype(float),
        lambda x: labels_of(x)[:, None],
        lambda x: labels_of(x)[:, None] == np.arange(4),
    ],
)
def test_every_form_of_the_right_answer_is_understood(function: Any) -> None:
    model = model_of(function)
    for images in (IMAGES, IMAGES.astype(np.float64), IMAGES.tolist(), jnp.asarray(IMAGES)):
        np.testing.assert_array_equal(np.asarray(model(images)).argmax(1), LABELS)
    np.testing.assert_array_equal(np.asarray(jax.jit(model)(IMAGES)).argmax(1), LABELS)


def test_bools_are_the_labels_of_two_classes() -> None:
    model = model_of(lambda x: labels_of(x) == 0, classes=2)
    np.testing.assert_array_equal(np.asarray(model(IMAGES)).argmax(1), LABELS == 0)


def test_a_winner_by_less_than_float32_tells_wins() -> None:
    scores = np.array([[1.0, 1.0 + 1e-12, 0.0], [1e20, 0.0, 1e20 + 1e5], [1.0, 1.0, 0.0]])
    answer = np.asarray(model_of(lambda x: scores, 3)(IMAGES[:3]))
    np.testing.assert_array_equal(answer.argmax(1), [1, 2, 0])
    np.testing.assert_allclose(answer, scores, rtol=1e-6)


def test_a_view_of_the_input_is_no_answer_that_changes() -> None:
    seen = IMAGES.copy()
    answer = np.asarray(model_of(lambda x: x.reshape(len(x), -1)[:, :4])(seen))
    seen[:] = 0
    np.testing.assert_array_equal(answer, IMAGES.reshape(len(IMAGES), -1)[:, :4])


BROKEN = [
    (
        lambda x: np.full(len(x), 4),
        "the label 4, but classes=4: labels are counted from 0.* 0 to 3",
    ),
    (lambda x: labels_of(x) - 7, r"the labels -7, .*but classes=4"),
    (lambda x: on_the_host(x) * np.nan, "NaN or infinite scores for"),
    (lambda x: on_the_host(x).astype(float) * 1e300, "NaN or infinite scores for"),
    (lambda x: np.array(["cat"] * len(x)), "dtype <U3: return numbers"),
    (lambda x: on_the_host(x)[:1], r"shape \(1, 4\).*return scores"),
    (lambda x: on_the_host(x)[:, :3], r"shape \(\d+, 3\).*but classes=4"),
    (lambda x: 1 / (1 + np.exp(-on_the_host(x)[:, :1])), r"no label: .*np.stack\(\[1 - p, p\]"),
    (lambda x: (on_the_host(x), x), "returned tuple, which is no array"),
    (lambda x: {"logits": on_the_host(x)}, "dtype object"),
    (lambda x: 3, r"shape \(\)"),
    (lambda x: x.nothing, "function raised AttributeError .*has no attribute 'nothing'"),
]


@pytest.mark.parametrize(("function", "said"), BROKEN)
def test_what_is_no_answer_is_one_error_everywhere(function: Any, said: str) -> None:
    model = model_of(function)
    with pytest.raises(ValueError, match=said):
        model(IMAGES)
    with pytest.raises(ValueError, match=said) as caught:
        ja.run(ja.UniformNoise(), model, IMAGES, GOAL, 0.1, key=KEY, lanes=8, devices=TWO)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("calls", [1, 3, 6])
def test_an_error_in_the_middle_of_a_run_is_the_users_own(calls: int, caplog: Any) -> None:
    """Nothing of JAX's: no traceback in the log, no wrapped error, no number that was made up."""
    asked: list[int] = []

    def late(images: Any) -> Any:
        asked.append(len(images))
        if len(asked) > calls:
            raise KeyError("gone")
        return on_the_host(images)

    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="KeyError") as caught:
        ja.run(
            ja.Square(steps=2000), model_of(late), IMAGES, GOAL, 2e-5, key=KEY, lanes=8, devices=TWO
        )
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(asked) <= calls + len(TWO) and not caplog.records
    # The next run is none the worse for it.
    result = ja.run(ja.UniformNoise(), MODEL, IMAGES, GOAL, 0.1, key=KEY, lanes=8, devices=TWO)
    assert np.isfinite(result.margin).all()


def test_a_certificate_is_not_made_of_a_broken_answer(tmp_path: Any) -> None:
    asked: list[int] = []

    def late(images: Any) -> Any:
        asked.append(len(images))
        return labels_of(images) if len(asked) < 4 else np.full(len(images), 4)

    with pytest.raises(ValueError, match="the label 4"):
        ja.certify(
            model_of(late),
            IMAGES[:2],
            sigma=0.1,
            samples=500,
            key=KEY,
            store=tmp_path,
            devices=TWO[:1],
        )
    assert len(asked) == 4 and not [path for path in tmp_path.rglob("*") if "smoothed" in path.name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"function": 3}, "function is int"),
        ({"function": labels_of, "classes": 4}, "pass differentiable=False"),
        ({"function": labels_of, "classes": 1, "differentiable": False}, "classes=1"),
        ({"function": labels_of, "classes": 4.0, "differentiable": False}, "classes=4.0"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ja.from_function(**arguments)


def test_large_batches_on_as_many_devices_as_threads_end():
    """JAX copies large inputs of a callback by the threads that wait in callbacks: it hung."""
    program = """
import time
import jax, numpy as np, jaxadv as ja

def function(images):
    time.sleep(0.05)  # so that all devices are inside at the same time
    mean = images.mean((1, 2, 3))
    return np.stack([mean - 0.5, 0.5 - mean], 1)

model = ja.from_function(function, differentiable=False)
images = np.random.default_rng(0).random((128, 32, 32, 3), np.float32)
attack, goal = ja.UniformNoise(restarts=10), ja.Untargeted(np.zeros(128, int))
devices = jax.local_devices()
result = ja.run(attack, model, images, goal, 0.1, key=jax.random.key(0), devices=devices)
print(len(devices), result.status.all())
"""
    threads = str(max(2, os.cpu_count() or 1))
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": threads, "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stdout.split() == [threads, "True"]
