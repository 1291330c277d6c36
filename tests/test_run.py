"""The engine: equal bits however the work is cut, exact counts, verification, budgets, Ctrl-C."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.pytree import pytree
from jaxadv.engine.run import run_rows
from jaxadv.engine.session import Rows, Session
from tests.common import GOAL, IMAGES, KEY, LABELS, MODEL, network

ATTACK = ja.PGD(steps=20, step_size=0.1, restarts=3)
EPSILON = 0.06


def same(a: ja.Result, b: ja.Result, fields: tuple[str, ...] = ja.Result._fields[:-1]) -> None:
    for name in fields:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture(scope="module")
def whole() -> ja.Result:
    return ja.run(ATTACK, MODEL, IMAGES, GOAL, EPSILON, key=KEY, lanes=4)


def test_one_or_eight_devices_give_equal_bits(whole: ja.Result) -> None:
    for count in (1, 3):  # 21 images: ragged on 8 devices, even on 3
        devices = jax.local_devices()[:count]
        same(whole, ja.run(ATTACK, MODEL, IMAGES, GOAL, EPSILON, key=KEY, lanes=4, devices=devices))


def test_chunks_give_equal_bits(whole: ja.Result) -> None:
    same(whole, ja.run(ATTACK, MODEL, IMAGES, GOAL, EPSILON, key=KEY, lanes=4, chunk=5))


def test_halving_gives_the_same_answers(whole: ja.Result) -> None:
    halved = ja.run(
        ATTACK,
        MODEL,
        IMAGES,
        GOAL,
        EPSILON,
        key=KEY,
        lanes=4,
        halve=True,
        devices=jax.local_devices()[:1],
    )
    same(whole, halved, ("success", "forward", "backward", "status"))
    assert halved.cost.lane_ticks < whole.cost.lane_ticks


def test_a_memory_mapped_file_is_read_chunk_by_chunk(whole: ja.Result, tmp_path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    same(whole, ja.run(ATTACK, MODEL, mapped, GOAL, EPSILON, key=KEY, lanes=4, chunk=8))


def test_counts_are_those_of_a_sequential_run(whole: ja.Result) -> None:
    """A plain Python loop over images, restarts and steps, which stops at the first success."""
    from jaxadv.core.attack import Problem, attack_key, safe_epsilon

    radius = jnp.float32(safe_epsilon("linf", EPSILON))
    value_and_gradient = jax.jit(
        jax.value_and_grad(
            lambda x, y: ATTACK.objective(ja.Untargeted(y), MODEL(x[None])[0]), has_aux=False
        )
    )
    for i in (0, 3, 5, 8, 13):
        forward, backward = 1, 0
        broken = int(MODEL(IMAGES[i : i + 1])[0].argmax()) != LABELS[i]
        for rank in range(3):
            if broken:
                break
            problem = Problem(
                jnp.asarray(IMAGES[i]),
                ja.Untargeted(jnp.int32(LABELS[i])),
                radius,
                jnp.float32(0),
                jnp.float32(1),
                MODEL(IMAGES[i : i + 1])[0],
                jnp.int32(rank),
            )
            x = ATTACK.init(problem, attack_key(ATTACK, KEY, i, rank)).image
            for step in range(21):
                forward += 1
                broken = int(MODEL(x[None])[0].argmax()) != LABELS[i]
                if broken or step == 20:
                    break
                backward += 1
                _, g = value_and_gradient(x, LABELS[i])
                x = jnp.clip(
                    jnp.clip(
                        x + 0.1 * radius * jnp.sign(g), IMAGES[i] - radius, IMAGES[i] + radius
                    ),
                    0,
                    1,
                )
        assert (whole.success[i], whole.forward[i], whole.backward[i]) == (
            broken,
            forward,
            backward,
        )


def test_several_epsilons_are_one_queue() -> None:
    source = np.repeat(np.arange(21), 3)
    epsilon = np.tile([0.02, 0.06, 0.2], 21)
    session = Session(MODEL, IMAGES, GOAL, np.arange(21), KEY, lanes=4)
    rows = run_rows(session, ATTACK, Rows(source, epsilon))
    for e in range(3):
        alone = ja.run(ATTACK, MODEL, IMAGES, GOAL, epsilon[e], key=KEY, lanes=4)
        same(rows.rows(slice(e, None, 3)), alone)


def test_a_step_budget_is_a_shorter_attack() -> None:
    short = ja.run(
        ja.PGD(steps=20), MODEL, IMAGES, GOAL, EPSILON, key=KEY, lanes=4, budget=ja.Budget(steps=5)
    )
    assert short.forward.max() <= 6
    assert not (short.status == ja.Status.NOT_RUN).any()


def test_a_pass_budget_is_never_exceeded_and_can_be_taken_up(whole: ja.Result) -> None:
    settings = {"key": KEY, "lanes": 4, "devices": jax.local_devices()[:1]}
    part = ja.run(ATTACK, MODEL, IMAGES, GOAL, EPSILON, budget=ja.Budget(passes=400), **settings)
    assert part.cost.lane_ticks * 2 <= 400
    open_rows = np.flatnonzero(part.status == ja.Status.NOT_RUN)
    assert 0 < len(open_rows) < 21
    rest = ja.run(
        ATTACK,
        MODEL,
        IMAGES[open_rows],
        ja.Untargeted(LABELS[open_rows]),
        EPSILON,
        ids=open_rows,
        **settings,
    )
    for together, piece in zip(part[:-1], rest[:-1], strict=True):
        together[open_rows] = piece
    same(whole, part)


def test_ctrl_c_returns_what_is_done() -> None:
    calls = []

    def interrupt(done: int, total: int, successes: int) -> None:
        if not calls:
            threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
        calls.append(done)

    before = signal.getsignal(signal.SIGINT)
    long = ja.PGD(steps=200_000, step_size=0.1)
    result = ja.run(long, MODEL, IMAGES, GOAL, 1e-3, key=KEY, lanes=4, progress=interrupt)
    assert (result.status == ja.Status.NOT_RUN).any()
    assert (result.status[3], result.success[3]) == (ja.Status.MISCLASSIFIED, True)
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_ends_with_all_rows() -> None:
    seen: list[tuple[int, int, int]] = []
    result = ja.run(
        ATTACK,
        MODEL,
        IMAGES,
        GOAL,
        EPSILON,
        key=KEY,
        lanes=4,
        progress=lambda *state: seen.append(state),
    )
    assert seen[-1] == (21, 21, int(result.success.sum()))


@pytree
class Liar(ja.Attack):
    """Claims an image far outside the ball, or outside the box, and that it asks inside."""

    value: float = 1.0  # type: ignore[assignment]
    restarts = 1
    pullbacks = 0

    @property
    def ticks(self) -> int:
        return 1

    def init(self, problem, key):
        return jnp.int32(0)

    def ask(self, problem, state):
        return jnp.full_like(problem.image, self.value)[None]

    def tell(self, problem, state, answer):
        return state + 1

    def done(self, problem, state):
        return state > 0


def test_verification_refuses_what_breaks_the_rules() -> None:
    predicted = np.asarray(MODEL(IMAGES).argmax(1))
    lies = np.stack([np.full((6, 6, 1), value, np.float32) for value in (1.0, 40.0)])
    label = next(c for c in predicted if c not in np.asarray(MODEL(lies).argmax(1)))
    right = predicted == label  # attacked; the lie is adversarial for each of them
    goal = ja.Untargeted(np.full(21, int(label)))
    for value, status in ((1.0, ja.Status.REJECTED_DISTANCE), (40.0, ja.Status.REJECTED_BOX)):
        result = ja.run(Liar(value=value), MODEL, IMAGES, goal, 0.01, key=KEY)
        assert set(result.status[right]) == {int(status)}
        assert not result.success[right].any()


def test_transfer_is_judged_by_the_other_model() -> None:
    other = network(seed=5)
    labels = np.asarray(other(IMAGES).argmax(1))
    result = ja.run(ja.PGD(), MODEL, IMAGES, GOAL, 0.3, key=KEY, judge=other, keep="last")
    np.testing.assert_array_equal(
        result.success, np.asarray(other(result.images).argmax(1)) != LABELS
    )
    assert labels.shape == (21,)


@pytest.mark.parametrize("where", ["logits", "gradients"])
def test_a_model_that_gives_nan_is_reported_and_never_counts(where: str) -> None:
    def apply(weights, x):
        flat = x.reshape(len(x), -1)
        z = jnp.tanh(flat @ weights["a"]) @ weights["b"]
        if where == "logits":
            return jnp.where(flat.mean(1, keepdims=True) > 0.5, jnp.nan, z)
        bad = jnp.sqrt(jnp.where(flat[:, :1] > 0.5, 0.0, 1.0) * jnp.abs(flat[:, :1]))
        return z + 0 * bad  # infinite slope times zero

    model = ja.Model(apply, MODEL.params)
    with pytest.warns(ja.CheckWarning, match="NaN") if where == "logits" else _nothing():
        result = ja.run(ja.PGD(steps=5), model, IMAGES, GOAL, 0.02, key=KEY, lanes=4)
    assert np.isfinite(result.images).all()
    assert (result.status == ja.Status.NONFINITE).any()
    assert not (result.success & np.isnan(result.margin)).any()


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_nothing_recompiles_when_values_change() -> None:
    traces = []

    def apply(weights, x):
        traces.append(1)
        return jnp.tanh(x.reshape(len(x), -1) @ weights["a"]) @ weights["b"]

    import optax

    for attack in (
        ja.PGD(steps=5),
        ja.PGD(steps=5, optimizer=ja.Optimizer(optax.adam, learning_rate=0.1)),
    ):
        ja.run(attack, ja.Model(apply, MODEL.params), IMAGES, GOAL, 0.1, key=KEY)
        before = len(traces)
        changed = jax.tree.map(lambda leaf: leaf * 1.5, MODEL.params)
        optimizer = attack.optimizer and ja.Optimizer(optax.adam, learning_rate=0.3)
        again = ja.PGD(steps=5, step_size=0.2, optimizer=optimizer)
        ja.run(
            again,
            ja.Model(apply, changed),
            1 - IMAGES,
            ja.Untargeted((LABELS + 1) % 4),
            0.2,
            key=jax.random.key(3),
            ids=np.arange(100, 121),
        )
        assert len(traces) == before
