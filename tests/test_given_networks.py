"""Studies of networks that the user gives: closed forms, refusals, and what is stored."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.data import Dataset
from jaxadv.studies import EXPERIMENTS, FIXED, TRAIN, Given, Setting, check_networks, conduct
from jaxadv.studies import _place as place
from jaxadv.studies.networks import RECIPES, names_of, network_of, published
from tests.linear import free_distance, line, logits, problem

SHAPE = (4, 3, 1)


@pytest.fixture
def linear(tmp_path) -> Setting:
    """A linear model of two classes, and images that the box is far from."""
    weights, bias, images, labels = problem(box=False)
    data = Dataset(
        images.reshape(-1, *SHAPE), labels, np.arange(len(labels), dtype=np.int32), "x", ("a", "b")
    )
    model = ja.Model(logits, (jnp.asarray(weights), jnp.asarray(bias)))
    return Setting(data, data, tmp_path, 1, len(labels), networks=(Given("linear", model),))


def distances(setting: Setting, norm: str) -> np.ndarray:
    """The exact distances of the images to the boundary."""
    weights, bias, images, labels = problem(box=False)
    exact = []
    for image, label in zip(images, labels, strict=True):
        w, b = line(weights, bias, label)
        exact.append(free_distance(norm, w, w @ image.astype(np.float64) + b))
    return np.array(exact)


@pytest.mark.slow
def test_the_distortions_of_a_linear_model_are_its_distances(linear):
    table, *_, sentence, _ = conduct("szegedy.distortion", linear).parts
    exact = distances(linear, "l2").mean() / np.sqrt(np.prod(SHAPE))
    assert table.rows == ("linear",) and table.spread is None
    np.testing.assert_allclose(table.values[0, [2, 4]], exact, rtol=2e-3)
    np.testing.assert_allclose(table.values[0, [0, 1, 3]], [0, 0, 100])
    assert np.isnan(table.published).all()
    assert "In the paper" not in sentence.text


def test_one_perturbation_of_a_linear_model_fools_all_within_reach(linear):
    """Along -sign(w) it moves each image of one class by epsilon |w|_1: all nearer ones fall."""
    rows = np.flatnonzero(linear.train.labels == 1)
    data, nearest = linear.train.take(rows), distances(linear, "linf")[rows]
    epsilon = float(np.sort(nearest)[len(rows) // 2 : len(rows) // 2 + 2].mean())
    setting = linear._replace(train=data, test=data, epsilon=epsilon)
    table = conduct("universal.across", setting).parts[0]
    assert table.rows == ("linear", "random signs") and table.columns == ("linear",)
    assert table.values[0, 0] == pytest.approx(100 * (nearest < epsilon).mean())
    assert table.values[1, 0] < table.values[0, 0]


def test_what_is_stored_is_of_the_networks_and_the_radius(linear):
    one = linear.networks[0]
    assert one.model is not None
    other = dataclasses.replace(one.model, params=(2 * one.model.params[0], one.model.params[1]))
    settings = [
        linear,
        linear._replace(networks=()),
        linear._replace(networks=(Given("linear", other),)),
        linear._replace(networks=(Given("linear"),)),
        linear._replace(epsilon=0.1),
    ]
    assert len({place("szegedy.noise", setting)[1] for setting in settings}) == len(settings)


def test_networks_are_found_by_name(linear):
    assert names_of(linear, ("FC10(1)",)) == ("linear",)
    assert names_of(linear._replace(networks=()), ("FC10(1)",)) == ("FC10(1)",)
    assert network_of(linear, "linear").model is linear.networks[0].model
    with pytest.raises(ValueError, match="linear is no linen module"):
        _ = network_of(linear, "linear").linen
    with pytest.raises(ValueError, match="linear is trained already"):
        network_of(linear, "linear", 0, linear.train)
    trained = network_of(linear._replace(networks=(), quick=True), "FC")
    assert trained.linen.widths and trained.error(linear.train) < 0.5


def test_published_figures_are_of_the_papers_networks_and_of_digits(linear):
    assert published(linear, "FC10(1)") == (21.2, 20.0, 0.14)
    assert np.isnan(published(linear, "linear")).all()
    colour = linear.test._replace(images=np.zeros((2, 4, 4, 3), np.float32))
    assert np.isnan(published(linear._replace(test=colour), "FC10(1)")).all()
    assert linear.radius(0.2) == 0.2
    assert linear._replace(train=colour).radius(0.2) == 10 / 255
    assert linear._replace(train=colour, epsilon=0.1).radius(0.2) == 0.1


@pytest.mark.parametrize(
    ("name", "networks", "words"),
    [
        ("szegedy.halves", "linear", "trains its networks, and cannot take linear"),
        ("fooling.retraining", "linear", "pass the name of a definition"),
        ("szegedy.units", "linear", "looks into the layers of a linen module, which linear"),
        ("szegedy.pool", "LeNet", "takes no other networks than its own"),
        ("classifiers.distance", "LeNet", "takes no other networks than its own"),
        ("transfer.attacks", "LeNet", "takes two networks or more"),
    ],
)
def test_networks_that_a_study_cannot_take_are_refused_before_it_begins(
    linear, name, networks, words
):
    setting = linear if networks == "linear" else linear._replace(networks=(Given(networks),))
    with pytest.raises(ValueError, match=words) as caught:
        conduct(name, setting)
    assert "szegedy.distortion" in str(caught.value)  # one that takes them


def test_every_other_study_takes_any_network(linear):
    assert {*FIXED, *TRAIN} < {*EXPERIMENTS}
    two = linear._replace(networks=(Given("LeNet"), Given(next(iter(RECIPES)))))
    check_networks([name for name in EXPERIMENTS if name not in FIXED], two)
    closed = {*FIXED, *TRAIN, "szegedy.units", "transfer.attacks"}
    check_networks([name for name in EXPERIMENTS if name not in closed], linear)
