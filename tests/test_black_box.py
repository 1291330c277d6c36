"""Models without gradients, and attacks that are told the predicted class alone."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.pytree import pytree
from tests.common import GOAL, IMAGES, KEY, MODEL, on_the_host

ATTACK = ja.Square(steps=30)
EPSILON = 0.1


@pytest.mark.slow
def test_a_function_on_the_host_is_attacked_as_the_model_that_it_is() -> None:
    devices = jax.local_devices()[:2]
    asked = ja.from_function(on_the_host, differentiable=False)
    ours = ja.run(ATTACK, asked, IMAGES, GOAL, EPSILON, key=KEY, lanes=8, devices=devices)
    same = ja.run(ATTACK, MODEL, IMAGES, GOAL, EPSILON, key=KEY, lanes=8, devices=devices)
    np.testing.assert_array_equal(ours.success, same.success)
    np.testing.assert_array_equal(ours.queries, same.queries)
    assert ours.success.any() and not ours.backward.any()


def test_a_model_without_gradients_is_refused_to_gradient_attacks() -> None:
    asked = ja.from_function(on_the_host, differentiable=False)
    with pytest.raises(ValueError, match=r"PGD needs gradients, but the model cannot"):
        ja.run(ja.PGD(), asked, IMAGES, GOAL, EPSILON, key=KEY)


def test_labels_need_the_number_of_classes() -> None:
    def label(images: np.ndarray) -> np.ndarray:
        return on_the_host(images).argmax(1)

    with pytest.raises(ValueError, match="pass classes"):
        ja.run(
            ATTACK, ja.from_function(label, differentiable=False), IMAGES, GOAL, EPSILON, key=KEY
        )
    model = ja.from_function(label, differentiable=False, classes=4)
    np.testing.assert_array_equal(model(IMAGES).argmax(1), MODEL(IMAGES).argmax(1))


@pytree
class Spy(ja.Square):
    """Believes whatever it is told, and keeps it as the image that it asks next."""

    label_only: ClassVar[bool] = True

    def tell(self, problem: Any, state: Any, answer: Any) -> Any:
        told = jnp.zeros_like(problem.image).ravel().at[: answer.logits.size]
        seen = told.set(answer.logits.ravel() + 2 * problem.clean_logits)
        return state._replace(trial=seen.reshape(problem.image.shape), step=state.step + 1)


def test_an_attack_on_labels_is_told_no_more() -> None:
    result = ja.run(Spy(steps=1), MODEL, IMAGES, GOAL, 1.0, key=KEY, keep="last")
    told = result.images.reshape(len(IMAGES), -1)[:, :4]
    assert set(np.unique(told)) <= {0.0, 1.0, 2.0, 3.0} and (told.sum(1) == 3).all()
