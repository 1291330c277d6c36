"""Benchmarks on networks that are in none of their tables."""

import argparse

import numpy as np
import pytest

from benchmarks.common import load, load_own
from benchmarks.quality import exact, instances, verdict
from tests import linear

CODE = """
import numpy as np
import jaxadv as ja

weights, bias = np.load({file!r}).values()


def network():
    return ja.Model(lambda w, x: x.reshape(len(x), -1) @ w[0] + w[1], (weights, bias))
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A linear model in a file, its images in another, and the exact distances in a folder."""
    folder = tmp_path_factory.mktemp("mine")
    weights, bias, images, labels = linear.problem(box=False)
    np.savez(folder / "weights.npz", weights=weights, bias=bias)
    (folder / "net.py").write_text(CODE.format(file=str(folder / "weights.npz")))
    np.savez(folder / "test.npz", images=images, labels=labels)
    lines = [linear.line(weights, bias, label) for label in labels]
    distance = np.array(
        [
            linear.free_distance("linf", w, w @ image.astype(np.float64) + b)
            for image, (w, b) in zip(images, lines, strict=True)
        ]
    )
    index = np.arange(len(labels))[::-1]
    np.savez(folder / "linf.npz", index=index, distance=distance[index])
    return folder


def options(mine, **more):
    common = {"data": str(mine / "test.npz"), "data_dir": None, "model": None, "count": None}
    common |= {"epsilon": None, "norm": None}
    return argparse.Namespace(**{**common, **more})


def test_exact_reads_the_distances_of_a_folder(mine, capsys):
    (truth,) = exact.own(mine, options(mine, model=f"{mine / 'net.py'}:network"))
    assert truth.norm == "linf" and len(truth.labels) == linear.COUNT
    assert exact.compare(truth, ["fast"], False, [])  # the distances belong to the images
    assert " 1.0000 " in capsys.readouterr().out


def test_instances_are_balls_around_images_that_fall_beyond_their_distance(mine):
    network = load_own(f"{mine / 'net.py'}:network", options(mine))
    (truth,) = exact.own(mine, options(mine, model=f"{mine / 'net.py'}:network"))
    near, epsilon = np.argsort(truth.distance)[0], float(np.median(truth.distance))
    balls = instances.balls(network, epsilon)
    assert len(balls) == linear.COUNT
    order = [int(ball.name.split()[1]) for ball in balls]
    np.testing.assert_array_equal(order, np.arange(linear.COUNT))
    for place in (near, np.argsort(truth.distance)[-1]):
        ball = balls[len(balls) - 1 - place]  # the file has them in reverse
        np.testing.assert_allclose(ball.upper - ball.lower, 2 * epsilon, rtol=1e-6)
        found = instances.counterexamples(ball, instances.attack(ball, 0))
        assert (len(found) > 0) == (truth.distance[place] < epsilon)


def test_what_is_missing_is_said(mine, tmp_path):
    spec = f"{mine / 'net.py'}:network"
    with pytest.raises(SystemExit, match="pass its --data"):
        load_own(spec, options(mine, data=None))
    with pytest.raises(SystemExit, match="pass its --data"):
        load(str(mine))
    with pytest.raises(SystemExit, match="does not exist"):
        load_own(str(tmp_path / "lost.onnx"), options(mine))
    with pytest.raises(SystemExit, match="must hold linf.npz.* data/exact.*index.*distance"):
        list(exact.own(tmp_path, options(mine)))
    with pytest.raises(SystemExit, match="pass its --epsilon"):
        verdict.subject_of(spec, options(mine))
    with pytest.raises(SystemExit, match="pass its --epsilon"):
        instances.instances_of(spec, options(mine))
    with pytest.raises(SystemExit, match="instances.npz"):
        instances.instances_of(spec, options(mine, data=None))
    assert verdict.subject_of(spec, options(mine, epsilon=0.1, norm="l2"))[::5] == (0.1, "l2")
