"""Bad input gets one clear error that names the argument, what was given and what to do."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.engine.clean_answers import check_gradients
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL

JA: Any = ja  # for arguments of the wrong type


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
        run(model=ja.Model(lambda w, x: x[..., 0], ()))


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


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_model_bound_to_one_batch_size_is_told_so(size):
    model = ja.Model(lambda w, x: x.reshape(size, 12) @ w, np.ones((12, 3), np.float32))
    with pytest.raises(ValueError, match="batch of any size"):
        ja.run(
            ja.FGSM(),
            model,
            np.full((size, 2, 2, 3), 0.5, np.float32),
            ja.Untargeted([0] * size),
            0.1,
            key=jax.random.key(0),
        )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda *p: JA.evaluate(*p, epsilons=[0.1, 8]), "did you mean 8/255"),
        (lambda *p: JA.evaluate(*p, epsilons=[-0.1]), "not negative"),
        (lambda *p: JA.evaluate(*p, epsilons=["x"]), "pass a number"),
        (lambda *p: ja.compare_queries(*p, 0.03), "attacks=0.03: pass a dict"),
        (lambda *p: JA.evaluate(*p, epsilons=[]), "at least one"),
        (lambda *p: JA.evaluate(*p, attacks=["fast"]), "is not known"),
        (lambda *p: JA.evaluate(*p, attacks={"PGD": "PGD"}), "pass an attack"),
        (lambda *p: JA.evaluate(*p, attacks={"PGD": ja.PGD}), "PGD: pass ja.PGD"),
        (lambda *p: JA.evaluate(*p, attacks={"a": ja.FGSM(), "b": ja.PGD(norm="l2")}), "norm="),
        (lambda *p: JA.evaluate(*p, lanes=-1), "lanes=-1"),
        (lambda *p: JA.evaluate(*p, store=__file__), "is a file"),
        (lambda *p: JA.minimal_distance(*p, effort="best"), "effort='best'"),
        (lambda *p: JA.minimal_distance(*p, effort=["fast"]), "effort="),
        (lambda *p: JA.minimal_distance(*p, effort={}), "effort is empty"),
        (lambda *p: JA.minimal_distance(*p, effort={"FAB": "FAB"}), "pass an attack"),
        (lambda *p: JA.minimal_distance(*p, norm="l7"), "norm='l7'"),
        (lambda *p: JA.minimal_distance(*p, passes=-1), "passes=-1"),
        (lambda *p: JA.minimal_distance(*p, store=__file__), "is a file"),
        (lambda *p: JA.compare_queries(*p, {"Square": ja.Square()}, 8), "did you mean 8/255"),
        (lambda *p: JA.compare_queries(*p, {"Square": ja.Square()}, [0.1] * 4), "one number"),
        (lambda *p: JA.compare_queries(*p, {"Square": "Square"}, 0.1), "pass an attack"),
        (lambda *p: JA.compare_queries(*p, {"Square": ja.Square()}, 0.1, budget=0), "budget=0"),
        (lambda *p: JA.certify(*p, sigma="0.1", key=jax.random.key(0)), "sigma=0.1"),
        (lambda *p: JA.certify(*p, sigma=0.1, alpha="a", key=jax.random.key(0)), "alpha=a"),
        (lambda *p: JA.certify(*p, sigma=0.1, store=__file__, key=jax.random.key(0)), "is a file"),
        (lambda *p: JA.survival(*p, {"DDN": ja.DDN(), "PGD": ja.PGD()}, 8), "did you mean 8/255"),
    ],
)
def test_arguments_are_checked_before_anything_is_computed(monkeypatch, call, said):
    def begun(*_, **__):
        raise AssertionError("the work has begun")

    for name in ("engine.session", "certification.smoothing"):
        monkeypatch.setattr(f"jaxadv.{name}.predict", begun)
    monkeypatch.setattr("jaxadv.engine.run.run_chunk", begun)
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, np.eye(4, dtype=np.float32))
    with pytest.raises((ValueError, OSError), match=said):
        call(model, np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1), np.arange(4))


def test_training_is_refused_before_it_is_compiled(monkeypatch):
    from jaxadv.models import get_definition
    from jaxadv.models.train import train

    def begun(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("jaxadv.models.train._initialise", begun)
    images, labels = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1), np.arange(4)
    data = ja.data.Dataset(images, labels, labels, "corners", tuple("abcd"))
    module = get_definition("FC")(widths=(4,), classes=4)
    for how, said in (
        ({"attack": ja.PGD(), "epsilon": 8}, "did you mean 8/255"),
        ({"attack": "PGD", "epsilon": 0.1}, "pass an attack"),
        ({"noise": "x"}, "noise=x"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"batch_size": 5}, "batch_size=5"),
        ({"epochs": 0}, "epochs=0"),
    ):
        with pytest.raises(ValueError, match=said):
            train(module, data, key=jax.random.key(0), **{"epochs": 1, "batch_size": 2, **how})
    with pytest.raises(ValueError, match="3 classes"):
        train(module.clone(classes=3), data, key=jax.random.key(0), epochs=1, batch_size=2)
