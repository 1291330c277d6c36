"""Losses of certified bounds, against closed forms and samples, and what they train on MNIST."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxadv as ja
from jaxadv.data import Dataset
from jaxadv.models import from_linen, get_definition
from jaxadv.proofs.losses import LOSSES
from tests.commands import run_command
from tests.common import dense

BOTH = pytest.mark.parametrize("loss", [ja.ibp_loss, ja.crown_ibp_loss])


def network(sizes=(6, 10, 10, 3), seed=0):
    return dense(sizes, seed)


def data(count=8):
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(count, 2, 3, 1)).astype(np.float32)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 3, count))


def cross_entropy(model, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels)


@BOTH
def test_no_sample_has_a_larger_loss(loss):
    model, (images, labels) = network(), data()
    np.testing.assert_allclose(
        loss(model, images, labels, 0.0), cross_entropy(model, images, labels).mean(), rtol=1e-4
    )
    rng = np.random.default_rng(2)
    call = jax.jit(loss)
    for epsilon, image, label in zip((0.02, 0.1, 0.4, 0.05), images, labels, strict=False):
        noise = rng.uniform(-epsilon, epsilon, size=(2000, 2, 3, 1))
        noise[::2] = epsilon * np.sign(noise[::2])
        near = jnp.clip(image + noise, 0, 1).astype(jnp.float32)
        worst = cross_entropy(model, near, jnp.full(2000, label)).max()
        assert call(model, image[None], label[None], epsilon) >= worst - 1e-5


def test_a_linear_model_has_a_closed_form():
    weight = np.random.default_rng(0).normal(size=(6, 3))
    model = ja.Model(
        lambda w, x: x.reshape(len(x), -1) @ w, jnp.asarray(weight, jnp.float32), (-9.0, 9.0)
    )
    images, labels = data()
    logits = np.asarray(images).reshape(8, -1) @ weight
    slope = weight[:, labels].T[:, :, None] - weight[None]
    margin = logits[np.arange(8), labels][:, None] - logits - 0.1 * np.abs(slope).sum(1)
    exact = np.log(np.exp(-margin).sum(1)).mean()  # of the label itself the margin is 0
    np.testing.assert_allclose(ja.crown_ibp_loss(model, images, labels, 0.1), exact, rtol=1e-5)
    assert ja.ibp_loss(model, images, labels, 0.1) >= exact


@BOTH
def test_gradients_are_those_of_differences(loss):
    """Image by image and in small steps, as the slopes of CROWN's lines jump."""
    model, (images, labels) = network(), data()
    rng = np.random.default_rng(3)

    @jax.jit
    def both(params, image, label):
        return jax.value_and_grad(lambda w: loss(model, image, label, 0.05, w))(params)

    for image, label in zip(images[:, None], labels[:, None], strict=True):
        way = [jnp.asarray(rng.normal(size=w.shape), jnp.float32) for w in model.params]
        up, down = (
            both([w + step * v for w, v in zip(model.params, way, strict=True)], image, label)[0]
            for step in (3e-4, -3e-4)
        )
        _, slope = both(model.params, image, label)
        along = sum((g * v).sum() for g, v in zip(slope, way, strict=True))
        np.testing.assert_allclose(along, (up - down) / 6e-4, rtol=2e-3, atol=2e-3)


def test_the_tighter_loss_is_tighter():
    model, (images, labels) = network((6, 30, 30, 3)), data()
    losses = [float(loss(model, images, labels, 0.1)) for loss in LOSSES.values()]
    assert losses[1] < losses[0]


def certified(module, variables, test, epsilon):
    model = from_linen(module, variables)
    proof = ja.prove(model, test.images, test.labels, epsilon, effort="fast", attacks={})
    return proof.accuracy[0], float((proof.status != ja.Verdict.MISCLASSIFIED).mean())


@pytest.mark.slow
@pytest.mark.parametrize("bound", LOSSES)
def test_what_is_trained_on_mnist_can_be_proved(shared, bound):
    """Plain training leaves next to nothing to prove at 0.1, certified training most."""
    every = ja.load_data("mnist", "train", data_dir=shared / "data" / "mnist")
    test = ja.load_data("mnist", data_dir=shared / "data" / "mnist")
    part = Dataset(
        every.images[:8000], every.labels[:8000], every.ids[:8000], "mnist", every.classes
    )
    test = Dataset(test.images[:100], test.labels[:100], test.ids[:100], "mnist", test.classes)
    module = get_definition("FC")(widths=(64,))
    how = {"key": jax.random.key(0), "batch_size": 100}
    plain = ja.train(module, part, epochs=2, **how)
    sure = ja.train(module, part, epochs=12, bound=bound, epsilon=0.1, **how)
    before, after = certified(module, plain, test, 0.1), certified(module, sure, test, 0.1)
    assert before[1] > 0.9 and before[0] < 0.1
    assert after[0] > 0.5 and after[1] > 0.8


def test_training_continues_to_the_bit_and_names_what_does_not_fit(tmp_path):
    images, labels = data(12)
    given = Dataset(
        np.asarray(images), np.asarray(labels, np.int32), np.arange(12), "few", tuple("abc")
    )
    module = get_definition("FC")(widths=(8,), classes=3)
    how = {"key": jax.random.key(0), "batch_size": 4, "bound": "crown-ibp", "epsilon": 0.05}
    whole = ja.train(module, given, epochs=2, **how)

    class Killed(Exception):
        pass

    def kill(done, loss):
        raise Killed

    with pytest.raises(Killed):
        ja.train(module, given, epochs=2, checkpoint=tmp_path / "c", progress=kill, **how)
    again = ja.train(module, given, epochs=2, checkpoint=tmp_path / "c", **how)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    changed = {**how, "bound": "ibp"}
    with pytest.raises(ValueError, match="belongs to another run"):
        ja.train(module, given, epochs=2, checkpoint=tmp_path / "c", **changed)
    for wrong, message in (
        ({"bound": "most"}, "bound='most'"),
        ({"epsilon": None}, "epsilon=None"),
        ({"epsilon": -1.0}, "epsilon=-1.0"),
        ({"noise": 0.1}, "noise=0.1"),
        ({"attack": ja.PGD()}, "attack"),
    ):
        with pytest.raises(ValueError, match=message):
            ja.train(module, given, epochs=1, **{**how, **wrong})


@pytest.mark.slow
def test_the_command_trains_what_can_be_proved(tmp_path):
    file = tmp_path / "fc.safetensors"
    result = run_command(
        "train --model fc --data digits --epochs 2 --method crown-ibp --epsilon 0.05 --output", file
    )
    assert result.exit_code == 0, result.output
    assert file.is_file()
    refused = run_command("train --model fc --data digits --method ibp --steps 3 --epsilon 0.1")
    assert "--steps 3 is not for --method ibp" in refused.stderr
    assert "needs --epsilon" in run_command("train --method crown-ibp --data digits").stderr
