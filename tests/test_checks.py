"""Bad input gets one clear error that names the argument, what was given and what to do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.engine.checks import check_gradients
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL


def run(images=IMAGES, goal=GOAL, epsilon=0.1, model=MODEL, attack=None, **more) -> ja.Result:
    return ja.run(attack or ja.FGSM(), model, images, goal, epsilon, key=KEY, **more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"images": (IMAGES * 255).astype(np.uint8)}, "images has dtype uint8.*/ 255"),
        ({"images": IMAGES * 255}, r"images reach from .*divide 8-bit images by 255"),
        ({"images": (IMAGES - 0.5) / 0.2}, "look normalised"),
        ({"images": np.where(IMAGES > 0.9, np.nan, IMAGES)}, "NaN or infinite values in .* of 21"),
        ({"images": IMAGES[:0], "goal": ja.Untargeted(LABELS[:0])}, "at least one image"),
        ({"images": IMAGES[:, :5]}, r"cannot be called on images of shape \[N, 5, 6, 1\]"),
        ({"epsilon": 8}, "did you mean 8/255"),
        ({"epsilon": -0.1}, "not negative"),
        ({"epsilon": np.ones(4) * 0.1}, "one for each of 21 images"),
        ({"epsilon": None}, "FGSM needs one"),
        ({"goal": ja.Untargeted(LABELS + 3)}, r"labels reach from .* 4 classes, 0 to 3"),
        ({"goal": ja.Untargeted(LABELS[:-1])}, "labels has shape"),
        ({"goal": ja.Untargeted(LABELS * 1.0)}, "integers"),
        ({"goal": LABELS}, "pass ja.Untargeted"),
        ({"goal": ja.Targeted(LABELS, LABELS)}, "targets equal the labels"),
        ({"keep": "best"}, "keep='best'"),
        ({"ids": np.arange(3)}, "ids has shape"),
        ({"devices": []}, "devices"),
        ({"lanes": 0}, "lanes=0"),
        ({"start": IMAGES[:4]}, r"start has shape \(4, 6, 6, 1\): pass \(21, 6, 6, 1\)"),
    ],
)
def test_the_error_says_what_to_do(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        run(**arguments)
    assert "\n" not in str(caught.value)


def test_rounding_at_the_bounds_is_no_error() -> None:
    run(images=np.where(IMAGES.min() == IMAGES, -2.98e-8, IMAGES).astype(np.float32))


def test_logits_of_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match="logits"):
        run(model=ja.Model(lambda w, x: x.sum((1, 2, 3)), ()))


def test_probabilities_in_place_of_logits() -> None:
    soft = ja.Model(lambda p, x: jax.nn.softmax(MODEL.apply(p, x)), MODEL.params)
    with pytest.warns(ja.CheckWarning, match="probabilities"):
        run(model=soft)


class Trained(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x.reshape(len(x), -1)))
        return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(x))


def test_training_mode_is_refused_and_evaluation_mode_is_not() -> None:
    module = Trained()
    variables = module.init(jax.random.key(0), IMAGES, train=False)
    with pytest.raises(ValueError, match="training mode"):
        run(model=ja.Model(lambda v, x: module.apply(v, x), variables))
    run(model=ja.Model(lambda v, x: module.apply(v, x, train=False), variables))


def test_gradients_that_tell_nothing() -> None:
    assert check_gradients(MODEL, IMAGES, GOAL) == []
    rounded = ja.Model(lambda p, x: MODEL.apply(p, jnp.round(x)), MODEL.params)
    messages = check_gradients(rounded, IMAGES, GOAL)
    assert [m.split(" images")[0] for m in messages] == ["21 of 21", "21 of 21"]
    broken = ja.Model(lambda p, x: MODEL.apply(p, jnp.sqrt(x - x[:1])), MODEL.params)
    assert any("NaN" in m for m in check_gradients(broken, IMAGES, GOAL))


def test_import_changes_no_configuration() -> None:
    import subprocess
    import sys

    program = (
        "import jax; before = dict(jax.config.values); import jaxadv; "
        "assert dict(jax.config.values) == before; import sys; "
        "assert not {'flax', 'tensorflow_datasets', 'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
