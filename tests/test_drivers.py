"""The pure drivers: the kept image and the counts against a sequential run in numpy, any order and
width of lanes, every transformation of jax, one compilation, models that give NaN."""

import functools
import itertools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxadv.attacks.gradient_based.pgd import PGD
from jaxadv.attacks.minimum_norm.brendel_bethge import BrendelBethge
from jaxadv.attacks.noise import UniformNoise
from jaxadv.attacks.wrappers.minimal_epsilon import MinimalEpsilon
from jaxadv.core.attack import Attack, Needs
from jaxadv.core.goals import Targeted, Untargeted
from jaxadv.core.model import Model
from jaxadv.core.norms import distance64
from jaxadv.core.optimizer import Optimizer
from jaxadv.core.pytree import pytree, static
from jaxadv.engine.batch import drive_batch, make_table, perturb
from jaxadv.engine.lanes import drive_lanes
from tests.common import slow

COUNT, SHAPE, CLASSES = 24, (4, 4, 1), 5
KEY = jax.random.key(0)


def mlp(params, images):
    first, second = params
    return jnp.tanh((images.reshape(len(images), -1) - 0.5) @ first) @ second


def linear(params, images):
    return images.reshape(len(images), -1) @ params


def network(seed=0):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(16, 12)), rng.normal(size=(12, CLASSES))
    return Model(mlp, (jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)))


def data(model, count=COUNT, seed=1):
    """Images, and goals that they meet not at all (the model's own answers are the labels)."""
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.uniform(0.05, 0.95, (count, *SHAPE)), jnp.float32)
    return images, Untargeted(model(images).argmax(-1).astype(jnp.int32))


def rows(table, index):
    """Some rows of a table."""
    return table._replace(
        source=table.source[index],
        goal=jax.tree.map(lambda leaf: leaf[index], table.goal),
        radius=table.radius[index],
        ids=table.ids[index],
        active=table.active[index],
    )


@functools.partial(jax.jit, static_argnames=("keep", "lanes"))
def drive(attack, model, table, key, keep, lanes=None):
    if lanes is None:
        gathered = drive_batch(attack, model, table, key, keep=keep)
    else:
        gathered = drive_lanes(attack, model, table, key, keep=keep, lanes=lanes)
    return gathered, *gathered.totals(keep)


# --------------------------------------------------------------- a scripted attack: truth is known


class Script(NamedTuple):
    """What is asked: images [R, T, Q, ...], masks [R, T, Q], and how many ticks [R] there are."""

    images: Any
    answers: Any
    gradients: Any
    length: Any


@pytree
class Scripted(Attack):
    """Asks what `problem.extra` lists for its rank, and notes the gradients that it is told."""

    norm: str = static("l2")
    restarts: int = static(1)
    most: int = static(6)
    queries: int = static(1)
    pullbacks: int = static(1)
    asks_inside: bool = static(True)
    needs_epsilon: ClassVar[bool] = True

    @property
    def ticks(self):
        return self.most

    def init(self, problem, key):
        return jnp.int32(0), problem.rank

    def _now(self, problem, state):
        step, rank = state
        return jax.tree.map(
            lambda leaf: leaf[rank, jnp.minimum(step, self.most - 1)], problem.extra[:3]
        )

    def ask(self, problem, state):
        return self._now(problem, state)[0]

    def needs(self, problem, state):
        _, answers, gradients = self._now(problem, state)
        return Needs(answers, gradients & (self.pullbacks > 0))

    def cotangents(self, problem, state, logits):
        return jnp.ones((self.queries, self.pullbacks, logits.shape[-1]))

    def tell(self, problem, state, answer):
        return state[0] + 1, state[1]

    def done(self, problem, state):
        return state[0] >= problem.extra.length[state[1]]


def make_script(images, restarts, most, queries, seed):
    rng = np.random.default_rng(seed)
    count = len(images)
    far = rng.choice([0.05, 0.3, 0.9], (count, restarts, most, queries, 1, 1, 1))
    far[::4] = 0.01  # every fourth image is hardly moved
    noise = far * rng.uniform(-1, 1, (count, restarts, most, queries, *SHAPE))
    asked = np.clip(np.asarray(images)[:, None, None, None] + noise, 0, 1).astype(np.float32)
    answers = rng.random((count, restarts, most, queries)) < 0.7
    answers[..., 0] |= ~answers.any(-1)  # each tick reads something
    gradients = rng.random((count, restarts, most, queries)) < 0.5
    return Script(asked, answers, gradients, rng.integers(1, most + 1, (count, restarts)))


def sequential(script, image, label, weights, epsilon, keep, pullbacks, check):
    """One image after the other, in numpy: (index of the kept image, success, rank, counts)."""

    def logits(x):
        return x.astype(np.float64).ravel() @ weights

    def gap(z):
        return z[label] - np.delete(z, label).max()

    best, where, success, winner = np.inf, None, False, None
    forward = backward = computed = 0
    restarts, _most, queries = script.answers.shape
    for rank in range(restarts):
        for step in range(script.length[rank]):
            stop = False
            for query in np.flatnonzero(script.answers[rank, step]):
                x = script.images[rank, step, query]
                margin, distance = gap(logits(x)), np.linalg.norm((x - image).astype(np.float64))
                outside = check and distance > epsilon
                adversarial = margin < 0 and not outside
                if keep == "loss":
                    value, tier = np.inf if outside else margin, False
                elif keep == "last":
                    value, tier = -1e9 if where is None or where[:2] != (rank, step) else 0, False
                    if rank > 0:
                        continue  # of several restarts the first is kept: nothing is better
                    best = np.inf if value else best
                else:
                    tier = adversarial
                    value = distance if keep == "distance" else 0.0
                    value = value if adversarial else np.inf if outside else margin
                if (tier and not success) or (tier == success and value < best):
                    best, where, success, winner = value, (rank, step, int(query)), tier, rank
                stop |= keep == "first" and adversarial
            forward += script.answers[rank, step].sum()
            computed += queries
            if not stop:
                backward += pullbacks * script.gradients[rank, step].sum()
            if stop:
                break
        if keep == "first" and success:
            break
    return where, success, winner, (forward, backward, forward, computed)


@pytest.mark.parametrize("lanes", [None, 1, 5, 64])
@pytest.mark.parametrize("keep", ["first", "distance", "loss", "last"])
@pytest.mark.parametrize(
    ("restarts", "queries", "pullbacks", "inside"),
    [(1, 1, 1, True), (3, 3, 2, True), (2, 2, 0, False)],
)
def test_kept_image_and_counts_are_a_sequential_runs(
    keep, lanes, restarts, queries, pullbacks, inside
):
    if (lanes in (1, 64) and (restarts, keep) != (3, "first")) or (lanes == 5 and restarts == 1):
        pytest.skip("one setting is enough for these widths")
    weights = np.random.default_rng(5).normal(size=(16, CLASSES)).astype(np.float32)
    model = Model(linear, jnp.asarray(weights))
    images, goal = data(model)
    attack = Scripted(restarts=restarts, queries=queries, pullbacks=pullbacks, asks_inside=inside)
    script = make_script(images, restarts, attack.most, queries, seed=queries)
    epsilon = 1.0  # the images of far 0.9 lie outside: only asks_inside=False may ask for them
    table = make_table(attack, model, images, goal, epsilon, keep=keep)._replace(
        extra=jax.tree.map(jnp.asarray, script)
    )
    gathered, counts, complete = jax.tree.map(
        np.asarray, drive(attack, model, table, KEY, keep, lanes)
    )
    assert complete.all()
    outcomes = set()
    for i in range(COUNT):
        one = Script(*(leaf[i] for leaf in script))
        where, success, rank, paid = sequential(
            one,
            np.asarray(images[i]),
            int(goal.labels[i]),
            weights.astype(np.float64),
            epsilon * (1 - 1e-6) - 2**-23,
            keep,
            pullbacks,
            not inside,
        )
        outcomes.add(success)
        assert tuple(int(count[i]) for count in counts) == paid
        truth = images[i] if where is None else one.images[where]  # nothing was inside
        np.testing.assert_array_equal(gathered.best.image[i], truth)
        if keep in ("first", "distance"):
            assert gathered.best.tier[i] == success
            assert gathered.best.adversarial[i] == success
            if success:
                assert gathered.rank[i] == rank
        x = np.asarray(truth, np.float64).ravel() @ weights.astype(np.float64)
        label = int(goal.labels[i])
        assert gathered.best.margin[i] == pytest.approx(
            x[label] - np.delete(x, label).max(), abs=1e-4
        )
    assert keep in ("loss", "last") or outcomes == {True, False}


def test_an_image_outside_the_ball_is_never_the_one_of_highest_loss():
    # An attack that asks outside (asks_inside=False): adversarial training with keep="loss" must
    # not be handed an image outside the ball or the box.
    weights = np.random.default_rng(5).normal(size=(16, CLASSES)).astype(np.float32)
    model = Model(linear, jnp.asarray(weights))
    images, goal = data(model)
    attack = Scripted(asks_inside=False)
    script = make_script(images, 1, attack.most, 1, seed=1)
    table = make_table(attack, model, images, goal, 1.0, keep="loss")._replace(
        extra=jax.tree.map(jnp.asarray, script)
    )
    gathered, *_ = drive(attack, model, table, KEY, "loss")
    assert distance64("l2", np.asarray(gathered.best.image), np.asarray(images)).max() <= 1.0


def test_without_pullbacks_no_gradient_is_needed():
    # A while_loop has no reverse derivative: were one asked for, this would raise.
    def loop(params, images):
        return jax.lax.while_loop(lambda x: (x > 1e9).any(), lambda x: x, mlp(params, images))

    model = Model(loop, network().params)
    images, goal = data(model)
    attack = UniformNoise(draws=3)
    table = make_table(attack, model, images, goal, 0.3)
    gathered, counts, _ = drive(attack, model, table, KEY, "first")
    assert np.asarray(counts.backward).sum() == 0
    assert 0 < np.asarray(gathered.best.tier).sum() < COUNT
    with pytest.raises(ValueError, match=r"[Rr]everse"):
        perturb(PGD(steps=1), model, images, goal, 0.3, key=KEY)


# ------------------------------------------------------------------------------ lanes and the queue

ATTACK = PGD(steps=8, step_size=0.25, restarts=3)
EPSILON = 0.05


@functools.cache
def setting(keep="first"):
    model = network()
    images, goal = data(model)
    return model, images, goal, make_table(ATTACK, model, images, goal, EPSILON, keep=keep)


@pytest.mark.parametrize("keep", ["first", "distance"])
@pytest.mark.parametrize("lanes", [1, 9, 100])
def test_lanes_of_any_width_find_what_the_batch_finds(lanes, keep):
    if keep == "distance" and lanes != 9:
        pytest.skip("one width is enough")
    model, _, _, table = setting(keep)
    batch, batch_counts, _ = drive(ATTACK, model, table, KEY, keep)
    ours, counts, complete = drive(ATTACK, model, table, KEY, keep, lanes)
    assert bool(complete.all())
    assert 0.2 < float(batch.best.tier.mean()) < 0.9
    np.testing.assert_array_equal(ours.best.tier, batch.best.tier)
    np.testing.assert_array_equal(ours.rank[ours.best.tier], batch.rank[batch.best.tier])
    for a, b in zip(counts, batch_counts, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(ours.best.margin, batch.best.margin, atol=0.05)


def assert_equal_bits(ours, truth):
    (gathered, counts, complete), (other, other_counts, _) = ours, truth
    assert bool(complete.all())
    for a, b in zip(
        jax.tree.leaves((gathered.best, gathered.rank, gathered.rows.nonfinite, counts)),
        jax.tree.leaves((other.best, other.rank, other.rows.nonfinite, other_counts)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def pick(outcome, index):
    gathered, counts, complete = outcome
    gathered = gathered._replace(rows=jax.tree.map(lambda leaf: leaf[index], gathered.rows))
    return gathered, jax.tree.map(lambda leaf: leaf[index], counts), complete[index]


@pytest.mark.parametrize("keep", ["first", "loss"])
def test_the_order_of_the_queue_changes_no_bit(keep):
    model, _, _, table = setting(keep)
    truth = drive(ATTACK, model, table, KEY, keep, 8)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(COUNT)
        ours = drive(ATTACK, model, rows(table, order), KEY, keep, 8)
        assert_equal_bits(ours, pick(truth, order))


def test_chunks_of_the_queue_change_no_bit():
    keep = "first"
    model, _, _, table = setting(keep)
    truth = drive(ATTACK, model, table, KEY, keep, 8)
    for part in np.split(np.arange(COUNT), 3):
        assert_equal_bits(drive(ATTACK, model, rows(table, part), KEY, keep, 8), pick(truth, part))


def test_another_seed_and_other_ids_are_other_runs():
    model, _images, _goal, table = setting()
    truth, *_ = drive(ATTACK, model, table, KEY, "loss", 8)
    for key, ids in ((jax.random.key(1), table.ids), (KEY, table.ids + 100)):
        other, *_ = drive(ATTACK, model, table._replace(ids=ids), key, "loss", 8)
        differ = np.asarray(other.best.image) != np.asarray(truth.best.image)
        assert differ.any((1, 2, 3)).mean() > 0.5


def test_ids_not_places_name_the_random_keys():
    # The same image twice in one table, under the same id, gives the same bits.
    model, images, goal, _ = setting()
    twice = jnp.concatenate([images[:4]] * 2)
    goal = Untargeted(jnp.concatenate([goal.labels[:4]] * 2))
    table = make_table(ATTACK, model, twice, goal, EPSILON, jnp.arange(8) % 4, keep="loss")
    found, *_ = drive(ATTACK, model, table, KEY, "loss", 8)
    np.testing.assert_array_equal(found.best.image[:4], found.best.image[4:])


@pytest.mark.parametrize("lanes", [None, 8])
def test_restarts_are_a_sequential_run(lanes):
    # One restart after the other with tables of one row each: the loop in Python.
    model, _, _, table = setting()
    several, counts, _ = drive(ATTACK, model, table, KEY, "first", lanes)
    single = PGD(steps=8, step_size=0.25)
    once, once_counts, _ = drive(single, model, table, KEY, "first", lanes)
    first, rest = np.asarray(several.rank) == 0, np.asarray(several.rank) > 0
    solved = np.asarray(once.best.tier)
    assert solved.sum() > 2
    np.testing.assert_array_equal(first & np.asarray(several.best.tier), solved)
    np.testing.assert_array_equal(several.best.image[solved], once.best.image[solved])
    for a, b in zip(counts, once_counts, strict=True):
        np.testing.assert_array_equal(a[solved], b[solved])
    # What fails pays all of each restart: 3 x (8 gradients, 9 forward passes).
    failed = ~np.asarray(several.best.tier)
    assert failed.sum() > 2
    np.testing.assert_array_equal(counts.forward[failed], 27)
    np.testing.assert_array_equal(counts.backward[failed], 24)
    # What falls at rank r has paid r whole restarts before.
    for i in np.flatnonzero(rest & ~failed):
        rank = int(several.rank[i])
        last = int(several.counts.forward.reshape(3, COUNT)[rank, i])
        assert int(counts.forward[i]) == 9 * rank + last
        assert int(counts.backward[i]) == 8 * rank + last - 1


def test_clean_mistakes_are_not_attacked():
    model, images, goal, _ = setting()
    wrong = Untargeted((goal.labels + (jnp.arange(COUNT) % 2)) % CLASSES)
    for lanes in (None, 8):
        table = make_table(ATTACK, model, images, wrong, EPSILON)
        gathered, counts, _complete = drive(ATTACK, model, table, KEY, "first", lanes)
        np.testing.assert_array_equal(counts.computed[1::2], 0)
        np.testing.assert_array_equal(gathered.best.image[1::2], images[1::2])
        assert bool(gathered.best.adversarial[1::2].all())


# ------------------------------------------------------------------------------------- perturb

SMOOTH = PGD(norm="l2", steps=5, step_size=0.3)  # no sign: close inputs give close images


def perturbed(model, images, goal, epsilon, ids, keep="loss", key=KEY):
    return perturb(SMOOTH, model, images, goal, epsilon, key=key, ids=ids, keep=keep)


compiled = jax.jit(perturbed, static_argnames="keep")


def inputs(count=16):
    model = network()
    images, goal = data(model, count)
    return model, images, goal, jnp.arange(count)


@pytest.mark.parametrize("keep", [slow("loss"), "last", "first", "distance"])
def test_perturb_under_jit(keep):
    model, images, goal, ids = inputs()
    jitted = np.asarray(compiled(model, images, goal, 0.5, ids, keep=keep))
    assert distance64("l2", jitted, np.asarray(images)).max() <= 0.5
    assert (jitted != np.asarray(images)).any((1, 2, 3)).mean() > 0.2
    if keep == "loss":  # ("distance": many lie on the sphere, which is nearest is up to rounding)
        plain = perturbed(model, images, goal, 0.5, ids, keep)
        np.testing.assert_allclose(jitted, plain, atol=1e-5)


def test_perturb_raises_the_loss():
    model, images, goal, ids = inputs()
    before = jax.vmap(SMOOTH.objective)(goal, model(images))
    losses = {}
    for keep in ("loss", "last"):
        logits = model(compiled(model, images, goal, 0.5, ids, keep=keep))
        losses[keep] = np.asarray(jax.vmap(SMOOTH.objective)(goal, logits))
    assert (losses["loss"] > np.asarray(before)).all()
    assert (losses["loss"] >= losses["last"] - 1e-5).all()


@pytest.mark.slow
def test_perturb_under_vmap_and_scan():
    model, images, goal, ids = inputs()
    epsilons = jnp.array([0.1, 0.4, 0.8])
    each = jnp.stack([compiled(model, images, goal, e, ids) for e in epsilons])
    mapped = jax.jit(jax.vmap(lambda e: perturbed(model, images, goal, e, ids)))(epsilons)
    np.testing.assert_allclose(mapped, each, atol=1e-5)
    _, scanned = jax.lax.scan(
        lambda c, e: (c, perturbed(model, images, goal, e, ids)), 0.0, epsilons
    )
    np.testing.assert_allclose(scanned, each, atol=1e-5)


def test_perturb_with_an_epsilon_each():
    model, images, goal, ids = inputs()
    epsilons = np.linspace(0.1, 0.8, 16)
    ours = jax.jit(lambda x: perturbed(model, x, goal, epsilons, ids))(images)
    ours = np.asarray(ours)
    for i in (0, 7, 15):
        one = compiled(model, images, goal, epsilons[i], ids)
        np.testing.assert_allclose(ours[i], one[i], atol=1e-5)
    assert (distance64("l2", ours, np.asarray(images)) <= epsilons).all()


needs_devices = pytest.mark.skipif(jax.device_count() < 2, reason="needs 2 devices")


@pytest.mark.slow
@needs_devices
def test_perturb_under_pmap():
    model, images, goal, ids = inputs()
    plain = compiled(model, images, goal, 0.5, ids)

    def split(x):
        return x.reshape(2, -1, *x.shape[1:])

    mapped = jax.pmap(lambda x, g, i: perturbed(model, x, g, 0.5, i), devices=jax.devices()[:2])(
        split(images), jax.tree.map(split, goal), split(ids)
    )
    np.testing.assert_allclose(mapped.reshape(images.shape), plain, atol=1e-4)


@pytest.mark.slow
@needs_devices
def test_perturb_and_lanes_under_shard_map():
    model, images, goal, ids = inputs()
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")

    def sharded(function):
        return jax.jit(
            jax.shard_map(
                function, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
            )
        )

    mapped = sharded(lambda x, g, i: perturbed(model, x, g, 0.5, i))(images, goal, ids)
    plain = compiled(model, images, goal, 0.5, ids)
    np.testing.assert_allclose(mapped, plain, atol=1e-4)

    def lanes(x, g, i):
        table = make_table(SMOOTH, model, x, g, 0.5, i, keep="loss")
        return drive_lanes(SMOOTH, model, table, KEY, keep="loss", lanes=4).best.image

    np.testing.assert_allclose(sharded(lanes)(images, goal, ids), plain, atol=1e-4)


@pytest.mark.slow
@needs_devices
def test_adversarial_training_step_on_shards():
    # The gradient of the loss at perturbed images, averaged over devices, is the plain one.
    model, images, goal, ids = inputs()
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec, whole = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()

    def gradient(params, x, g, i):
        moved = perturbed(Model(mlp, params), x, g, 0.5, i)
        losses = lambda p: jax.vmap(SMOOTH.objective)(g, mlp(p, moved)).mean()  # noqa: E731
        return jax.grad(losses)(params)

    def step(params, x, g, i):
        return jax.lax.pmean(gradient(params, x, g, i), "d")

    mapped = jax.shard_map(
        step, mesh=mesh, in_specs=(whole, spec, spec, spec), out_specs=whole, check_vma=False
    )
    ours = jax.jit(mapped)(model.params, images, goal, ids)
    truth = jax.jit(gradient)(model.params, images, goal, ids)
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


# ---------------------------------------------------------------------------------- compilations


@pytest.mark.parametrize("lanes", [None, 8])
@pytest.mark.parametrize("optimizer", [None, optax.adam])
def test_new_values_never_compile_again(optimizer, lanes):
    traced = []

    def counting(params, images):
        traced.append(images.shape)
        return mlp(params, images)

    def call(seed, epsilon, step_size, rate):
        made = optimizer and Optimizer(optimizer, learning_rate=rate)
        attack = PGD(steps=3, step_size=step_size, optimizer=made)
        model = Model(counting, network(seed).params)
        images, goal = data(Model(mlp, model.params), seed=seed)
        return program(attack, model, images, goal, epsilon, jax.random.key(seed))

    @jax.jit
    def program(attack, model, images, goal, epsilon, key):
        table = make_table(attack, model, images, goal, epsilon)
        if lanes is None:
            return drive_batch(attack, model, table, key, keep="first").best.image
        return drive_lanes(attack, model, table, key, keep="first", lanes=lanes).best.image

    call(0, 0.1, 0.2, 0.01)
    once = len(traced)
    for seed, (epsilon, step_size, rate) in enumerate(
        itertools.product([0.03, 0.3], [0.1, 1], [0.1, 0.02]), start=1
    ):
        call(seed, epsilon, step_size, rate)
    assert once > 0
    assert len(traced) == once
    assert program._cache_size() == 1


def test_equal_attacks_are_equal():
    def make(rate=0.1, steps=3, constructor=optax.adam):
        return PGD(steps=steps, optimizer=Optimizer(constructor, learning_rate=rate, nesterov=True))

    assert jax.tree.structure(make()) == jax.tree.structure(make(0.2))
    assert jax.tree.structure(make()) != jax.tree.structure(make(steps=4))
    assert jax.tree.structure(make()) != jax.tree.structure(make(constructor=optax.sgd))


# -------------------------------------------------------------------------- models that misbehave


def nan_logits(params, images):
    """NaN as soon as an image's first entry exceeds 0.5; and then also a wrong class on top."""
    sick = images[:, 0, 0, 0] > 0.5
    return jnp.where(sick[:, None], jnp.nan, mlp(params, images))


def one_nan(params, images):
    return mlp(params, images).at[:, 1].set(jnp.nan)


@jax.custom_vjp
def bad_gradient(images):
    return images


bad_gradient.defvjp(lambda x: (x, None), lambda _, g: (jnp.full_like(g, jnp.nan),))


def nan_gradients(params, images):
    return mlp(params, bad_gradient(images))


@pytest.mark.parametrize("lanes", [None, 8])
@pytest.mark.parametrize("keep", ["first", "loss"])
@pytest.mark.parametrize("apply", [nan_logits, one_nan, nan_gradients])
def test_nothing_is_won_by_nan(apply, keep, lanes):
    if keep != "first" and (lanes or apply is one_nan):
        pytest.skip("the same tick")
    params = network().params
    images, goal = data(Model(mlp, params))
    attack = PGD(norm="l2", steps=4, step_size=0.3)
    model = Model(apply, params)
    table = make_table(attack, model, images, goal, 0.3, keep=keep)
    gathered, *_ = jax.tree.map(np.asarray, drive(attack, model, table, KEY, keep, lanes))
    assert np.isfinite(gathered.best.image).all()
    assert distance64("l2", gathered.best.image, np.asarray(images)).max() <= 0.3
    if apply is one_nan:
        assert gathered.rows.nonfinite.all()
        assert not gathered.best.adversarial.any()
    if apply is nan_logits:
        start = np.asarray(images)[:, 0, 0, 0]
        assert gathered.rows.nonfinite[start > 0.81].all()  # cannot leave the sick half
        assert not gathered.rows.nonfinite[start < 0.19].any()
        assert not gathered.best.adversarial[gathered.best.image[:, 0, 0, 0] > 0.5].any()
    if apply is nan_gradients and keep != "first":
        assert gathered.rows.nonfinite.all()
    logits = np.asarray(apply(params, jnp.asarray(gathered.best.image)))
    wrong = np.isfinite(logits).all(1) & (logits.argmax(1) != np.asarray(goal.labels))
    np.testing.assert_array_equal(gathered.best.adversarial, wrong)


# -------------------------------------------------------------------------------------- attacks


@pytest.mark.parametrize(
    ("norm", "constructor"),
    [
        ("linf", optax.sgd),
        ("linf", optax.adam),
        ("linf", optax.lion),
        ("l2", optax.adam),
        ("l2", optax.rmsprop),
        ("l1", optax.sgd),
    ],
)
def test_any_optimiser_stays_in_ball_and_box(norm, constructor):
    model, images, goal, _ids = inputs()
    epsilon = {"linf": 0.1, "l2": 0.4, "l1": 1.2}[norm]
    rate = {optax.sgd: 1.0}.get(constructor, 0.05)
    attack = PGD(norm=norm, steps=6, optimizer=Optimizer(constructor, learning_rate=rate))
    table = make_table(attack, model, images, goal, epsilon, keep="last")
    gathered, *_ = drive(attack, model, table, KEY, "last")
    found = np.asarray(gathered.best.image)
    assert distance64(norm, found, np.asarray(images)).max() <= epsilon
    assert found.min() >= 0
    assert found.max() <= 1
    before, after = (jax.vmap(attack.objective)(goal, model(x)) for x in (images, found))
    assert float((after > before).mean()) > 0.9


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_minimal_epsilon_on_a_linear_model(norm, targeted):
    # Distance to the nearest (or the target's) hyperplane over the weights' dual norm.
    # (Two classes: of more, a gradient attack need not choose the nearest.)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 2)).astype(np.float32)
    weights[:, 1] *= np.float32(weights[:, 0].sum() / weights[:, 1].sum())  # 0.5 is the boundary
    model = Model(linear, jnp.asarray(weights))
    images = jnp.asarray(0.5 + 0.05 * rng.normal(size=(12, *SHAPE)), jnp.float32)
    logits = np.asarray(images, np.float64).reshape(12, -1) @ weights.astype(np.float64)
    labels = logits.argmax(1).astype(np.int32)
    w = weights[:, 0].astype(np.float64) - weights[:, 1]
    exact = np.abs(logits[:, 0] - logits[:, 1]) / np.linalg.norm(w, 1 if norm == "linf" else 2)
    goal = Targeted(labels, 1 - labels) if targeted else Untargeted(labels)
    inner = PGD(norm=norm, steps=20, step_size=0.2, loss="margin", random_start=False)
    attack = MinimalEpsilon(inner, rounds=14)
    table = make_table(attack, model, images, goal, None, keep="distance")
    gathered, counts, _ = jax.tree.map(np.asarray, drive(attack, model, table, KEY, "distance"))
    distance = distance64(norm, gathered.best.image, np.asarray(images))
    assert gathered.best.tier.all()
    assert gathered.best.image.min() > 0  # the box does not bind
    assert gathered.best.image.max() < 1
    assert (distance >= exact * (1 - 1e-5)).all()
    assert (distance <= exact * 1.01).all()
    assert counts.forward.max() <= attack.ticks


def test_minimal_epsilon_gives_up_when_the_largest_fails():
    model = Model(linear, jnp.zeros((16, CLASSES)).at[:, 0].set(1.0))
    images = jnp.full((3, *SHAPE), 0.9)
    attack = MinimalEpsilon(PGD(steps=4), rounds=5, largest=0.1)
    table = make_table(
        attack, model, images, Untargeted(jnp.zeros(3, jnp.int32)), None, keep="distance"
    )
    gathered, counts, _ = drive(attack, model, table, KEY, "distance")
    assert not bool(gathered.best.tier.any())
    np.testing.assert_array_equal(counts.forward, 5)


@pytest.mark.slow
def test_the_last_image_is_kept_without_asking_about_it():
    """keep="last" of `perturb` saves the last forward pass; the images are those of the driver."""
    model, images, goal, table = setting("last")
    ids = np.asarray(table.ids)
    radius = 0.2
    ours = perturb(ATTACK, model, images, goal, radius, key=KEY, keep="last", ids=ids)
    table = make_table(ATTACK, model, images, goal, radius, ids, keep="last")
    truth = drive_batch(ATTACK, model, table, KEY, keep="last").best.image
    np.testing.assert_array_equal(ours, truth)


@pytest.mark.parametrize(
    ("attack", "keep"),
    [
        (PGD(steps=6, restarts=2), "first"),
        slow(MinimalEpsilon(PGD(steps=4), rounds=3), "distance", id="searched"),
        slow(BrendelBethge(steps=12), "distance", id="walk"),  # ticks with and without gradients
        slow(PGD(steps=6, restarts=2), "loss", id="loss"),
    ],
)
def test_passes_compiled_together_find_the_same(attack, keep):
    model = network()
    images, goal = data(model)
    epsilon = 0.1 if attack.needs_epsilon else None
    table = make_table(attack, model, images, goal, epsilon, keep=keep)

    def found(rewrite):
        call = functools.partial(drive_lanes, keep=keep, lanes=5, rewrite=rewrite)
        results = jax.jit(call)(attack, model, table, KEY)
        return results.best.image, results.best.tier, results.totals(keep)

    apart, together = found(rewrite=True), found(rewrite=False)
    assert np.asarray(apart[1]).sum() > 0 or keep == "loss"
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), apart, together)
