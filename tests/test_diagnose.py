"""Models that were built to trip one check each, and a sound one on which all are silent."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.engine.diagnose.answers import meant_labels, same_answers, smooth
from jaxadv.engine.diagnose.attacks import enough_steps, verified
from jaxadv.engine.diagnose.planted import plant
from jaxadv.engine.diagnose.program import no_gradients_inside, operations, read_program
from jaxadv.engine.verify import margins, predict
from tests.commands import run_command

ONE = jax.local_devices()[:1]
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (60, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(60) % 3
SOUND = {
    "weights": np.pad(RNG.normal(size=(16, 3)), ((0, 0), (0, 1))).astype(np.float32),
    "wide": RNG.normal(size=(16, 400)).astype(np.float32),
    "narrow": np.pad(RNG.normal(size=(400, 3)), ((0, 0), (0, 1))).astype(np.float32),
    "winners": np.float32(0),
    "softmax": np.float32(0),
    "scale": np.float32(1),
    "coupling": np.float32(0),
    "slope": np.float32(1),
    "levels": np.float32(0),
    "guard": np.float32(0),
}


@jax.custom_vjp
def _tilt(x, slope):
    """The identity, whose backward pass is multiplied by `slope`."""
    return x


_tilt.defvjp(lambda x, slope: (x, slope), lambda slope, g: (slope * g, jnp.zeros_like(slope)))


def apply(params, images):
    """One program for all of these models: what is wrong with them is in the weights."""
    levels = params["levels"]
    images = jnp.where(levels > 0, jnp.round(images * levels) / jnp.maximum(levels, 1), images)
    flat = _tilt(images, params["slope"]).reshape(len(images), -1) - 0.5
    hidden = flat @ params["wide"]
    groups = hidden.reshape(len(images), 40, 10)  # 40 winners of 400, one in each group
    winners = jnp.where(groups >= groups.max(2, keepdims=True), groups, 0).reshape(hidden.shape)
    many = params["winners"] > 0
    logits = jnp.where(many, winners @ params["narrow"], flat @ params["weights"])
    alarm = params["guard"] * flat.var(1) - 20.0  # a detector: it refuses what varies much
    logits = logits.at[:, 3].set(alarm) * params["scale"]
    logits = logits - params["coupling"] * logits.mean(0, keepdims=True)
    return jnp.where(params["softmax"] > 0, jax.nn.softmax(logits), logits)


def broken(epsilon=0.3, steps=20, images=IMAGES, **changes):
    model = ja.Model(apply, {**SOUND, **changes})
    own = model if {"winners", "levels"} & set(changes) else ja.Model(apply, SOUND)
    labels = np.asarray(own(IMAGES).argmax(1))
    if "coupling" in changes:
        labels = predict(model, IMAGES, tuple(ONE)).argmin(1)  # never right: no attack is run
    found = ja.check(model, images, labels, epsilon=epsilon, steps=steps, lanes=16, devices=ONE)
    assert all(bool(finding.message) != finding.passed for finding in found)
    return {finding.name: finding.message for finding in found if not finding.passed}


@pytest.mark.slow
def test_a_sound_model_passes_every_check():
    assert broken() == {}
    assert not {"gradients find what queries find", "planted problems"} & set(broken(epsilon=0.05))


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"softmax": np.float32(1)}, "logits", "before the softmax"),
        ({"coupling": np.float32(1)}, "batch size", "evaluation mode"),
        ({"slope": np.float32(0)}, "gradients", "zero cross_entropy gradient"),
        ({"slope": np.float32(0)}, "gradients", "at random points of the ball"),
        ({"slope": np.float32(np.nan)}, "gradients", "NaN or infinite margin gradients"),
        ({"slope": np.float32(0.3)}, "true gradients", "misses 70 %"),
        ({"slope": np.float32(-1)}, "weaker attacks are weaker", "gradients mislead"),
        ({"slope": np.float32(0)}, "gradients find what queries find", "with 120 queries and no"),
        ({"levels": np.float32(3)}, "gradients find what queries find", "with 120 queries and no"),
        ({"slope": np.float32(-1)}, "gradients find what queries find", "mislead (masking)"),
        ({"slope": np.float32(-1)}, "no image withstands any change", "masked"),
        ({"slope": np.float32(-1)}, "planted problems", "too weak"),
        ({"levels": np.float32(3)}, "gradients", "nor has the margin one; look for rounding"),
        ({"scale": np.float32(1e4)}, "gradients", "saturated logits; the margin has a gradient"),
        ({"scale": np.float32(1e4)}, "gradients", "pass loss='margin'"),
        ({"winners": np.float32(1)}, "true gradients", "shattered"),
        ({"guard": np.float32(300)}, "no class for refusals", "class 3, which is no image's"),
        ({"steps": 3}, "enough steps", "pass more steps"),
        ({"epsilon": 0.5}, "epsilon", "within epsilon=0.5 of the grey one"),
        ({"epsilon": 0.0015}, "8 bits", "rounding to 8 bits"),
    ],
)
def test_each_defect_is_named(changes, name, message):
    if changes.get("epsilon", 1) < 0.1:  # images at the boundary: a step below half a grey level
        weights = SOUND["weights"]
        logits = ((IMAGES.reshape(60, -1) - 0.5) @ weights)[:, :3]
        order = np.argsort(logits, 1)
        top, second = (np.take_along_axis(logits, order[:, -k][:, None], 1)[:, 0] for k in (1, 2))
        gap = weights[:, order[:, -1]] - weights[:, order[:, -2]]
        near = IMAGES - ((top - second) / (gap**2).sum(0) * gap * 0.97).T.reshape(IMAGES.shape)
        changes = changes | {"images": near.clip(0, 1).astype(np.float32)}
    found = broken(**changes)
    assert message in found.get(name, ""), found


def test_k_winners_take_all_is_noisy():
    first, second = RNG.normal(size=(16, 600)), RNG.normal(size=(600, 600)) / 8
    last = RNG.normal(size=(600, 3))

    def margin(images, winners):
        hidden = images.reshape(len(images), 16) - 0.5
        for weights in (first, second):
            hidden = hidden @ weights
            hidden = np.where(hidden >= np.sort(hidden)[:, -winners][:, None], hidden, 0)
        return margins(ja.Untargeted(LABELS), hidden @ last)

    near = IMAGES + RNG.uniform(-0.003, 0.003, (8, *IMAGES.shape))
    for winners, passed in ((60, False), (600, True)):
        found = smooth(margin(IMAGES, winners), np.stack([margin(x, winners) for x in near]), 0.3)
        assert found.passed == passed and ("the loss is noisy" in found.message) != passed


def outside(x):
    return (RNG.normal(size=(len(x), 3)) + np.asarray(x).mean((1, 2))).astype(np.float32)


def leaves(w, x):
    return jax.pure_callback(outside, jax.ShapeDtypeStruct((len(x), 3), np.float32), x)


def inner(w, x):
    """A defence that moves the image downhill before it answers."""

    def energy(x):
        return jnp.square(jnp.tanh(x.reshape(len(x), -1) @ w)).sum()

    x = jax.lax.fori_loop(0, 3, lambda i, x: x - 0.1 * jax.grad(energy)(x), x)
    return x.reshape(len(x), -1) @ w


def through(change):
    return lambda w, x: change(x).reshape(len(x), -1) @ w


@jax.custom_jvp
def straight(x):
    return jnp.round(x)


straight.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))
CUT = [
    (through(lambda x: jnp.round(x * 8)), "round (test_diagnose.py:", "lies between image and"),
    (through(jax.lax.stop_gradient), "stop_gradient (test_diagnose.py:", "pass attacks without"),
    (through(jax.jit(jnp.sign)), "sign", "has no gradient"),
    (through(lambda x: 1.0 * (x > 0.5)), "a comparison", "has no gradient"),
    (leaves, "leaves JAX by pure_callback (test_diagnose.py:", "pass attacks without"),
]


@pytest.mark.parametrize(("function", "named", "advice"), CUT)
def test_operations_without_a_gradient_are_named(function, named, advice):
    message = operations(read_program(ja.Model(function, SOUND["weights"]), (4, 4, 1))).message
    assert named in message and advice in message


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: apply(SOUND | {"weights": w}, x),  # rounds on a way that is not the only one
        through(lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x)),
        through(straight),
        through(lambda x: jax.lax.fori_loop(0, 3, lambda i, x: jnp.sin(x), x)),
        through(lambda x: jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)),
        through(lambda x: jax.nn.softmax(jax.nn.relu(jax.checkpoint(jnp.sin)(x)))),
    ],
)
def test_programs_with_a_gradient_pass(function):
    scan = read_program(ja.Model(function, SOUND["weights"]), (4, 4, 1))
    assert operations(scan).passed and no_gradients_inside(scan).passed


def test_a_model_that_optimises_while_it_answers_is_named():
    scan = read_program(ja.Model(inner, SOUND["weights"]), (4, 4, 1))
    assert operations(scan).passed
    message = no_gradients_inside(scan).message
    assert "optimises at inference" in message and "in a loop (test_diagnose.py:" in message


@pytest.mark.slow
def test_a_model_that_draws_at_random_and_one_without_derivative_are_named():
    def resized(w, x):
        """Shifted by a number of pixels that the host draws anew at each call."""
        shape = jax.ShapeDtypeStruct((), np.int32)
        by = jax.pure_callback(lambda: np.int32(RNG.integers(4)), shape)
        return jnp.roll(x, by, 1).reshape(len(x), -1) @ w

    model = ja.Model(resized, SOUND["weights"][:, :3])
    first, *others = (predict(model, IMAGES, tuple(ONE)) for _ in range(6))
    assert "draws at random; average over its draws" in same_answers(first, others).message

    found = ja.check(ja.Model(leaves, ()), IMAGES, LABELS, epsilon=0.1, devices=ONE)
    named = {f.name: f.message for f in found if f.message}
    assert "leaves JAX" in named["operations"] and "draws at random" in named["same answers"]
    assert found[-1].name == "gradients" and "cannot be differentiated" in found[-1].message

    # The same in an evaluation: attacks without gradients go on.
    with pytest.raises(ValueError, match=r"attacks \['FGSM'.*need gradients"):
        ja.evaluate(
            ja.Model(leaves, ()),
            IMAGES,
            LABELS,
            attacks={"FGSM": ja.FGSM()},
            distances=False,
            devices=ONE,
        )
    report = ja.evaluate(
        ja.Model(leaves, ()),
        IMAGES,
        LABELS,
        attacks={"noise": ja.UniformNoise()},
        distances=False,
        devices=ONE,
        lanes=8,
    )
    assert any("leaves JAX" in message for message in report.messages)


def test_labels_that_are_not_the_models_are_named():
    logits = np.eye(10)[np.arange(50) % 10]
    right = np.arange(50) % 10
    assert meant_labels(logits, right).passed
    assert "label plus 1 for 50 of 50" in meant_labels(logits, (right - 1) % 10).message
    assert "label minus 1 for 50" in meant_labels(logits, (right + 1) % 10).message
    chance = meant_labels(logits, RNG.permutation(right) * 0)
    assert "5 of 50 images are classified as labelled, chance would give 5" in chance.message
    labels = (np.asarray(ja.Model(apply, SOUND)(IMAGES).argmax(1)) + 1) % 3
    found = ja.check(ja.Model(apply, SOUND), IMAGES, labels, epsilon=0.1, devices=ONE)
    assert not {f.name: f.passed for f in found}["labels"]


def test_a_detectors_score_beside_the_logits_is_explained():
    pair = ja.Model(lambda w, x: (x.reshape(len(x), -1) @ w, x.mean((1, 2, 3))), SOUND["weights"])
    with pytest.raises(ValueError, match="detector's score is no class: return the logits alone"):
        ja.check(pair, IMAGES, np.zeros(60, int), epsilon=0.1)


def test_a_planted_problem_has_an_answer_and_only_one():
    clean, drawn = RNG.normal(size=(30, 5)), RNG.normal(size=(12, 30, 5))
    goal, posed = plant(np.zeros(30, int), clean, drawn)
    scores = np.einsum("nk,qnk->qn", goal.readout, np.concatenate([clean[None], drawn]))
    found = scores > goal.threshold
    assert posed.all() and (found.sum(0) == 1).all() and not found[0].any()
    np.testing.assert_allclose(np.linalg.norm(goal.readout, axis=1), 2**0.5, rtol=1e-6)
    _, posed = plant(np.zeros(30, int), clean, np.stack([clean] * 12))  # a constant model
    assert not posed.any()


def test_what_attacks_found_and_lost_again_is_named():
    from jaxadv.core.result import empty_result

    result = empty_result(50, (4, 4, 1), np.ones(50), np.arange(50))
    result.status[:] = ja.Status.SUCCESS
    assert verified([result]).passed
    result.status[:3] = ja.Status.REJECTED_LABEL
    result.status[3] = ja.Status.NONFINITE
    message = verified([result]).message
    assert "3 of 49 images that attacks found were refused" in message
    assert "3 REJECTED_LABEL" in message and "1 of 50 attacks met NaN" in message


def test_attacks_that_are_still_on_their_way_are_named():
    from jaxadv.core.result import empty_result

    now, longer = (empty_result(50, (4, 4, 1), np.ones(50), np.arange(50)) for _ in range(2))
    now.margin[:], longer.margin[:] = 2.0, 1.98
    assert enough_steps(now, longer, np.full(50, 3.0), 40).passed
    longer.margin[:] = 1.9
    message = enough_steps(now, longer, np.full(50, 3.0), 40).message
    assert "80 steps raise the loss of the 50 images that withstand 10 % further" in message


@pytest.mark.slow
def test_targets_that_are_the_truth_are_warned_about():
    truth = np.asarray(ja.Model(apply, SOUND)(IMAGES).argmax(1))
    with pytest.warns(ja.CheckWarning, match="targets equal the current prediction"):
        ja.run(
            ja.FGSM(),
            ja.Model(apply, SOUND),
            IMAGES,
            ja.Targeted((truth + 1) % 3, truth),
            0.1,
            key=jax.random.key(0),
            lanes=16,
        )


@pytest.mark.slow
def test_the_command_finds_nothing_in_a_sound_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_command(
        "check --data digits --model fc --epochs 3 --json found.json --epsilon 0.1 --examples 60"
    )
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {finding["name"]: finding["message"] for finding in found if finding["message"]} == {}
    assert done.exit_code == 0
    assert "checks passed" in done.stdout
