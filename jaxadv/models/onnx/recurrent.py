"""Recurrent layers over sequences [T, N, D]."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxadv.core.typing import ArrayLike
from jaxadv.models.onnx.node import Node, Operator, integers

State = tuple[Array, ...]
Activations = Sequence[Callable[[Array], Array]]
ACTIVATIONS: dict[str, Callable[..., Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
}
DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

# A step takes the state, the input's part of the gates [N, gates * H], the recurrent weights
# [gates * H, H], their bias and the activations; it returns the state, the output first.


def _lstm_step(
    node: Node, state: State, entered: Array, weight: Array, bias: Array, acts: Activations
) -> State:
    hidden, cell = state
    f, g, h = acts
    into, out, forget, new = jnp.split(entered + hidden @ weight.T + bias, 4, -1)
    cell = f(forget) * cell + f(into) * g(new)
    return f(out) * h(cell), cell


def _gru_step(
    node: Node, state: State, entered: Array, weight: Array, bias: Array, acts: Activations
) -> State:
    (hidden,) = state
    f, g = acts
    size = hidden.shape[-1]
    gates = f(entered[:, : 2 * size] + hidden @ weight[: 2 * size].T + bias[: 2 * size])
    update, reset = jnp.split(gates, 2, -1)
    weight, bias = weight[2 * size :].T, bias[2 * size :]
    if node.get("linear_before_reset", 0):
        recalled = reset * (hidden @ weight + bias)
    else:
        recalled = (reset * hidden) @ weight + bias
    new = g(entered[:, 2 * size :] + recalled)
    return ((1 - update) * new + update * hidden,)


def _rnn_step(
    node: Node, state: State, entered: Array, weight: Array, bias: Array, acts: Activations
) -> State:
    (hidden,) = state
    return (acts[0](entered + hidden @ weight.T + bias),)


def _activations(node: Node, default: tuple[str, ...], direction: int) -> Activations:
    count = len(default)
    names = node.get("activations", default * (direction + 1))
    chosen = [name.lower() for name in names[direction * count :][:count]]
    if unknown := set(chosen) - set(ACTIVATIONS):
        raise ValueError(f"activations {sorted(unknown)} are not supported: only {[*ACTIVATIONS]}")
    return [ACTIVATIONS[name] for name in chosen]


def _layer(step: Operator, default: tuple[str, ...], states: int) -> Operator:
    """Return a recurrent layer with activations `default` and `states` arrays [N, H] of state."""

    def apply(
        node: Node,
        x: Array,
        weights: Array,
        recurrent: Array,
        biases: Array | None = None,
        lengths: ArrayLike | None = None,
        *initial: ArrayLike | None,
    ) -> tuple[Array, ...]:
        node.only(layout=0, clip=0.0, input_forget=0)
        stated = integers(node, "sequence_lens", lengths)
        if stated is not None and set(stated) != {len(x)}:
            raise ValueError(f"sequence_lens={stated}: only whole sequences, of {len(x)}")
        if any(value is not None for value in initial[states:]):
            raise ValueError("peepholes are not supported: export without the input P")
        outputs, last = [], []
        for d, backwards in enumerate(DIRECTIONS[node.get("direction", "forward")]):
            zero = jnp.zeros((x.shape[1], recurrent.shape[-1]), x.dtype)
            given = (*initial, *(None,) * states)[:states]
            state = tuple(zero if value is None else jnp.asarray(value[d]) for value in given)
            size = weights.shape[1]
            bias = jnp.zeros(2 * size, x.dtype) if biases is None else biases[d]
            before, after = jnp.split(bias, 2)
            acts = _activations(node, default, d)

            def advance(
                state: State, entered: Array, d=d, after=after, acts=acts
            ) -> tuple[State, Array]:
                state = step(node, state, entered, recurrent[d], after, acts)
                return state, state[0]

            entered = x @ weights[d].T + before
            state, sequence = lax.scan(advance, state, entered, reverse=backwards)
            outputs.append(sequence)
            last.append(state)
        ends = (jnp.stack(values) for values in zip(*last, strict=True))
        return jnp.stack(outputs, 1), *ends

    return apply


OPERATORS: dict[str, Operator] = {
    "GRU": _layer(_gru_step, ("Sigmoid", "Tanh"), 1),
    "LSTM": _layer(_lstm_step, ("Sigmoid", "Tanh", "Tanh"), 2),
    "RNN": _layer(_rnn_step, ("Tanh",), 1),
}
