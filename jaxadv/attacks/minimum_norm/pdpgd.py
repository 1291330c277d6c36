"""PDPGD: primal-dual descent with a proximal step instead of the gradient of the norm.

Norms without a gradient where it matters have a proximal operator: the z that minimises weight |z|
+ |z - r|^2 / 2. None of the operators sorts.
"""

from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxadv.attacks.minimum_norm.pdgd import DECAY, PDGD, PrimalDualState
from jaxadv.core.norms import NORMS, flat, get_norm
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import Number

NEWTON = 6  # iterations: from 1 to a root not below 0.79 they reach float32's accuracy

CLIMB = 12  # Newton iterations for Linf: 3,072 entries took at most 11 to reach 1e-6


def proximal_l0(r: Float[Array, "..."], weight: Number) -> Float[Array, "..."]:
    """Return r where keeping an entry is worth `weight`, else 0."""
    return jnp.where(jnp.square(r) > 2 * weight, r, 0.0)


def proximal_l23(r: Float[Array, "..."], weight: Number) -> Float[Array, "..."]:
    """Return the proximal operator of sum |z|^(2/3), which lies between those of L0 and L1.

    With z = r v^3 the derivative vanishes where v^4 - v + k = 0. The larger root is the minimum as
    long as a non-zero z is better than 0: for k up to 2^(-4/3), where half of r is left. Newton's
    method descends to it from 1.

    Args:
        r: [...] float32.
        weight: Weight of the norm.

    Returns:
        [...] float32.
    """
    size = jnp.abs(r)
    k = weight * (2 / 3) / jnp.maximum(size, 1e-20) ** (4 / 3)
    nonzero = k < 2 ** (-4 / 3)
    k = jnp.where(nonzero, k, 0.0)

    def newton(_: Number, v: Array) -> Array:
        return v - (v**4 - v + k) / (4 * v**3 - 1)

    v = lax.fori_loop(0, NEWTON, newton, jnp.ones_like(size))
    return jnp.where(nonzero, r * v**3, 0.0)


def proximal_l1(r: Float[Array, "..."], weight: Number) -> Float[Array, "..."]:
    """Return r after soft thresholding."""
    return jnp.sign(r) * jnp.maximum(jnp.abs(r) - weight, 0.0)


def proximal_l2(r: Float[Array, "..."], weight: Number) -> Float[Array, "..."]:
    """Return r shortened by `weight` in L2."""
    return r * jnp.maximum(1 - weight / jnp.maximum(get_norm("l2").distance(r), 1e-18), 0.0)


@flat
def proximal_linf(r: Float[Array, "..."], weight: Number) -> Float[Array, "..."]:
    """Return r clipped at the height above which its absolute values sum to `weight`.

    The sum falls along a convex piecewise linear function: Newton's method ascends to the height
    from below, never past it, and ends once no more entries drop out.

    Args:
        r: [...] float32.
        weight: Weight of the norm.

    Returns:
        [...] float32.
    """
    size = jnp.abs(r)

    def newton(_: Number, height: Array) -> Array:
        above = size > height
        left = jnp.where(above, size, 0.0).sum() - weight
        return jnp.maximum(height, left / jnp.maximum(above.sum(), 1))

    height = lax.fori_loop(0, CLIMB, newton, jnp.zeros_like(size.max()))
    return jnp.clip(r, -height, height)


OPERATORS: dict[str, Callable[[Array, Number], Array]] = {
    "l0": proximal_l0,
    "l2/3": proximal_l23,
    "l1": proximal_l1,
    "l2": proximal_l2,
    "linf": proximal_linf,
}


@pytree
class PDPGD(PDGD):
    """Primal-dual proximal gradient descent (Matyasko and Chau 2021, arXiv 2106.01538).

    As in `PDGD`, but Adam's step follows softplus(margin) alone; the norm is then minimised by its
    proximal operator in Adam's metric, with `inner` steps of proximal descent. The nearest
    adversarial query is returned.

    Three choices differ. The operator of "l2/3" is 0 wherever 0 is the lower of the two minima (the
    authors' code keeps the other minimum while there is one, so that small entries vanish later).
    The operator of "l0" treats each entry on its own (adv-lib's the largest of a pixel's channels).
    All inner steps are carried out (the authors' code ends them at a relative change of 0.01). Each
    restart costs `steps` backward and `steps + 1` forward passes.

    Attributes:
        norm: "linf", "l2", "l1" or "l0" (array entries).
        steps: Gradients per restart.
        restarts: As in `PDGD`.
        step_size: As in `PDGD`.
        final_step: As in `PDGD`.
        dual_step: As in `PDGD`.
        final_dual_step: As in `PDGD`.
        ratio: As in `PDGD`.
        least_ratio: As in `PDGD`.
        average: As in `PDGD`.
        noise: As in `PDGD`.
        operator: Proximal operator: "linf", "l2", "l1", "l2/3" or "l0". None takes that of the
            norm, and in L0 that of "l2/3", sum |r|^(2/3), as the authors advise.
        inner: Steps of proximal descent after each step of Adam.

    Raises:
        ValueError: If `norm` or `operator` is unknown, `inner` is below 1, or a field of `PDGD` is
            out of its range.

    >>> import jax, jax.numpy as jnp, jaxadv as ja
    >>> model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, 9 * jnp.eye(4)[:, :2])
    >>> images = jnp.full((1, 2, 2, 1), 0.5).at[0, 0, 0].set(0.7)
    >>> goal, attack = ja.Untargeted(jnp.array([0])), ja.PDPGD(norm="linf")
    >>> ja.run(attack, model, images, goal, key=jax.random.key(0)).distance.round(2)
    array([0.1])
    """

    norm: str = static(default="linf")
    operator: str | None = static(default=None)
    inner: int = static(default=5)
    norms: ClassVar[tuple[str, ...]] = tuple(NORMS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator is not None and self.operator not in OPERATORS:
            raise ValueError(f"operator={self.operator!r}: pass None or one of {list(OPERATORS)}")
        self.check_least(inner=1)

    def primal(
        self,
        state: PrimalDualState,
        moved: Array,
        gradient: Array,
        rate: Number,
        low: Array,
        high: Array,
    ) -> tuple[Float[Array, "..."], PyTree]:
        update, adam = self.adam().update(gradient, state.adam)
        target = jnp.clip(moved - rate * update, low, high)

        # Adam's metric is the diagonal of its denominators; its largest entry bounds the steps.
        metric = jnp.sqrt(adam.nu / (1 - DECAY[1] ** adam.count)) + DECAY[2]
        largest = metric.max()
        weight = state.weights[0] / state.weights[1] * rate / largest
        operator = OPERATORS[self.operator or ("l2/3" if self.norm == "l0" else self.norm)]

        def descend(_: Number, z: Array) -> Array:
            return jnp.clip(operator(z - metric / largest * (z - target), weight), low, high)

        return lax.fori_loop(0, self.inner, descend, target), adam
