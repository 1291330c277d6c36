"""Matrix products, attention, and reductions along axes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxadv.models.pytorch.node import Operator, operators

Axes = int | Sequence[int] | None


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    y = x @ weight.T
    return y if bias is None else y + bias


def _add_product(x: Array, a: Array, b: Array, *, beta: float = 1, alpha: float = 1) -> Array:
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product + (x if beta == 1 else beta * x)


def _attention(
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762)."""
    if dropout_p:
        raise ValueError("it drops entries at random: call module.eval() before the export")
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = jnp.repeat(key, repeats, -3), jnp.repeat(value, repeats, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.swapaxes(-1, -2)
    if is_causal:
        attn_mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if attn_mask is None:
        return jax.nn.softmax(scores) @ value
    if attn_mask.dtype == bool:
        scores = jnp.where(attn_mask, scores, -jnp.inf)
    else:
        scores = scores + attn_mask
    hidden = jnp.isneginf(scores).all(-1, keepdims=True)  # a row that sees nothing is zero
    return jnp.where(hidden, 0, jax.nn.softmax(jnp.where(hidden, 0, scores))) @ value


def _over(dim: Axes) -> Any:
    """Return axes for numpy; torch also writes all of them as an empty list."""
    return dim if dim is None or isinstance(dim, int) else tuple(dim) or None


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a reduction with the arguments of the schema."""

    def apply(
        x: Array, dim: Axes = None, keepdim: bool = False, *, dtype: str | None = None
    ) -> Array:
        x = x if dtype is None else jnp.asarray(x).astype(dtype)
        return function(x, axis=_over(dim), keepdims=keepdim)

    return apply


def _at(name: str) -> Callable[..., Any]:
    """Return values and indices of the largest or smallest entries; of several, of one of them."""

    def apply(x: Array, dim: int, keepdim: bool = False) -> tuple[Array, Array]:
        places = getattr(jnp, name)(x, dim, keepdims=True)
        values = jnp.take_along_axis(x, places, dim)
        return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))

    return apply


def _variance(
    x: Array, dim: Axes = None, *, correction: int | None = None, keepdim: bool = False
) -> Array:
    correction = 1 if correction is None else correction
    return jnp.var(x, _over(dim), ddof=correction, keepdims=keepdim)


def _variance_and_mean(
    x: Array, dim: Axes = None, *, correction: int | None = None, keepdim: bool = False
) -> tuple[Array, Array]:
    mean = x.mean(_over(dim), keepdims=keepdim)
    return _variance(x, dim, correction=correction, keepdim=keepdim), mean


def _root(squares: Array) -> Array:
    """Return square roots, with a derivative of zero where they are zero."""
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _norm(
    x: Array, ord: float = 2, dim: Axes = None, keepdim: bool = False, *, dtype: str | None = None
) -> Array:
    axis = _over(dim)
    sizes = jnp.abs(x)
    if ord == 2:
        return _root((x * x).sum(axis, keepdims=keepdim))
    if math.isinf(ord):
        return (sizes.max if ord > 0 else sizes.min)(axis, keepdims=keepdim)
    if ord == 0:
        return (x != 0).sum(axis, keepdims=keepdim).astype(x.dtype)
    if ord == 1:
        return sizes.sum(axis, keepdims=keepdim)
    total = (jnp.where(x == 0, 0, jnp.where(x == 0, 1, sizes) ** ord)).sum(axis, keepdims=keepdim)
    return jnp.where(total > 0, jnp.where(total > 0, total, 1) ** (1 / ord), 0)


def _top_k(
    x: Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Array, Array]:
    last = jnp.moveaxis(x, dim, -1)
    values, places = lax.top_k(last if largest else -last, k)
    values = values if largest else -values
    return jnp.moveaxis(values, -1, dim), jnp.moveaxis(places, -1, dim)


def _sort(x: Array, dim: int = -1, descending: bool = False) -> tuple[Array, Array]:
    places = jnp.argsort(x, dim, descending=descending)
    return jnp.take_along_axis(x, places, dim), places


def _cumulative_sum(x: Array, dim: int, *, dtype: str | None = None) -> Array:
    x = jnp.asarray(x)
    return jnp.cumsum(x.astype(jnp.int32) if x.dtype == bool else x, dim)


def _first(name: str) -> Callable[..., Any]:
    return lambda x, dim=None, keepdim=False: getattr(jnp, name)(x, dim, keepdims=keepdim)


OPERATORS: dict[str, Operator] = operators(
    {
        "addmm": _add_product,
        "all": _reduce(jnp.all),
        "amax": _reduce(jnp.max),
        "amin": _reduce(jnp.min),
        "any": _reduce(jnp.any),
        "argmax": _first("argmax"),
        "argmin": _first("argmin"),
        "baddbmm": _add_product,
        "bmm": jnp.matmul,
        "cumsum": _cumulative_sum,
        "dot": jnp.dot,
        "linalg_vector_norm": _norm,
        "linear": _linear,
        "logsumexp": _reduce(jax.nn.logsumexp),
        "matmul": jnp.matmul,
        "max.default": jnp.max,
        "max.dim": _at("argmax"),
        "mean": _reduce(jnp.mean),
        "min.default": jnp.min,
        "min.dim": _at("argmin"),
        "mm": jnp.matmul,
        "mv": jnp.matmul,
        "prod": _reduce(jnp.prod),
        "scaled_dot_product_attention": _attention,
        "sort": _sort,
        "std.correction": lambda x, dim=None, **options: _root(_variance(x, dim, **options)),
        "sum": _reduce(jnp.sum),
        "topk": _top_k,
        "var.correction": _variance,
        "var_mean.correction": _variance_and_mean,
    }
)
