"""Models that were built to trip one check each, and a sound one on which all are silent."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (60, 4, 4, 1)).astype(np.float32)
SOUND = {
    "weights": RNG.normal(size=(16, 3)).astype(np.float32),
    "softmax": np.float32(0),
    "scale": np.float32(1),
    "coupling": np.float32(0),
    "slope": np.float32(1),
}


@jax.custom_vjp
def _tilt(x, slope):
    """The identity, whose backward pass is multiplied by `slope`."""
    return x


_tilt.defvjp(lambda x, slope: (x, slope), lambda slope, g: (slope * g, jnp.zeros_like(slope)))


def apply(params, images):
    """One program for all of these models: what is wrong with them is in the weights."""
    flat = _tilt(images, params["slope"]).reshape(len(images), -1)
    logits = (flat - 0.5) @ params["weights"] * params["scale"]
    logits = logits - params["coupling"] * logits.mean(0, keepdims=True)
    return jnp.where(params["softmax"] > 0, jax.nn.softmax(logits), logits)


def broken(epsilon=0.3, steps=20, images=IMAGES, **changes):
    model = ja.Model(apply, {**SOUND, **changes})
    labels = np.asarray(ja.Model(apply, SOUND)(images).argmax(1))
    found = ja.check(model, images, labels, epsilon=epsilon, steps=steps, lanes=16)
    assert all(bool(finding.message) != finding.passed for finding in found)
    return {finding.name: finding.message for finding in found if not finding.passed}


def test_a_sound_model_passes_every_check():
    assert broken() == {}


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"softmax": np.float32(1)}, "logits", "before the softmax"),
        ({"coupling": np.float32(1)}, "batch size", "evaluation mode"),
        ({"slope": np.float32(0)}, "gradients", "zero cross_entropy gradient"),
        ({"slope": np.float32(-1)}, "weaker attacks are weaker", "gradients mislead"),
        ({"slope": np.float32(-1)}, "nothing withstands all", "masked"),
        ({"scale": np.float32(1e5)}, "gradients", "saturated"),
        ({"steps": 3}, "enough steps", "pass more steps"),
        ({"epsilon": 0.0015}, "8 bits", "rounding to 8 bits"),
    ],
)
def test_each_defect_is_named(changes, name, message):
    if "epsilon" in changes:  # images at the boundary: a step below half a grey level does
        weights = SOUND["weights"]
        logits = (IMAGES.reshape(60, -1) - 0.5) @ weights
        order = np.argsort(logits, 1)
        top, second = (np.take_along_axis(logits, order[:, -k][:, None], 1)[:, 0] for k in (1, 2))
        gap = weights[:, order[:, -1]] - weights[:, order[:, -2]]
        near = IMAGES - ((top - second) / (gap**2).sum(0) * gap * 0.97).T.reshape(IMAGES.shape)
        changes = changes | {"images": near.clip(0, 1).astype(np.float32)}
    found = broken(**changes)
    assert message in found.get(name, ""), found


def test_operations_without_a_gradient_are_named():
    rounding = ja.Model(lambda w, x: jnp.round(x * 8).reshape(len(x), -1) @ w, SOUND["weights"])
    draws = np.random.default_rng(1)

    def outside(x):
        return (draws.normal(size=(len(x), 3)) + x.mean((1, 2))).astype(np.float32)

    def leaves(w, x):
        return jax.pure_callback(outside, jax.ShapeDtypeStruct((len(x), 3), np.float32), x)

    from jaxadv.engine.diagnose import _path

    assert "round lies between image and logits" in _path(rounding, (4, 4, 1)).message
    assert "leaves JAX (pure_callback)" in _path(ja.Model(leaves, ()), (4, 4, 1)).message
    assert _path(ja.Model(apply, SOUND), (4, 4, 1)).passed


def test_a_model_that_draws_at_random_is_named():
    from jaxadv.engine.diagnose import _repeats

    logits = RNG.normal(size=(10, 3))
    assert _repeats(logits, [logits, logits]).passed
    found = _repeats(logits, [logits, logits + RNG.normal(size=logits.shape) * 0.1])
    assert "between identical calls" in found.message


def test_labels_that_are_not_the_models_are_named():
    labels = (np.asarray(ja.Model(apply, SOUND)(IMAGES).argmax(1)) + 1) % 3
    found = ja.check(ja.Model(apply, SOUND), IMAGES, labels, epsilon=0.1)
    assert found[-1].name == "labels" and not found[-1].passed


def test_targets_that_are_the_truth_are_warned_about():
    truth = np.asarray(ja.Model(apply, SOUND)(IMAGES).argmax(1))
    with pytest.warns(ja.CheckWarning, match="targets equal the current prediction"):
        ja.run(ja.FGSM(), ja.Model(apply, SOUND), IMAGES, ja.Targeted((truth + 1) % 3, truth), 0.1,
               key=jax.random.key(0), lanes=16)  # fmt: skip


def test_the_command_finds_nothing_in_a_sound_network(tmp_path, monkeypatch, capsys):
    from jaxadv.cli import app

    monkeypatch.chdir(tmp_path)
    what = ["check", "--data", "digits", "--model", "fc", "--epochs", "3", "--json", "found.json"]
    with pytest.raises(SystemExit) as ended:
        app([*what, "--epsilon", "0.1", "--examples", "60"])
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {finding["name"]: finding["message"] for finding in found if finding["message"]} == {}
    assert ended.value.code == 0
    assert "checks passed" in capsys.readouterr().out
