"""Flax (linen and nnx) and Keras networks as the engine's `Model`: a function and its weights.

What is static (module, graphdef, keyword arguments, normalisation) compares by value, so equal
architectures share one compiled program, regardless of their weights.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxadv.core.bounds import Bounds
from jaxadv.core.images import as_floats
from jaxadv.core.model import Model
from jaxadv.core.optional_dependency import extra
from jaxadv.core.pytree import pytree, static
from jaxadv.core.typing import ArrayLike, Params

if TYPE_CHECKING:
    from flax import linen as nn
    from flax import nnx


def from_linen(
    module: "nn.Module",
    variables: Mapping[str, Any],
    bounds: Bounds = (0.0, 1.0),
    **apply_kwargs: object,
) -> Model:
    """Convert a Flax linen module and its variables to a `ja.Model`.

    The module must be in evaluation mode: see `ja.run`.

    Args:
        module: Maps float32 images [N, H, W, C] to logits [N, K].
        variables: What `module.init` returned, all collections ("params", "batch_stats", ...). They
            are an argument of the compiled program, so new weights do not recompile.
        bounds: Least and largest pixel value, numbers, or arrays that broadcast to one input.
        **apply_kwargs: Hashable arguments of the module's call, such as `train=False`.

    Returns:
        The model.

    Raises:
        ValueError: If variables have no collection "params", or apply_kwargs contain `mutable`,
            `rngs` or an unhashable value.

    >>> import jax, jax.numpy as jnp
    >>> from jaxadv.models import from_linen, get_definition
    >>> module = get_definition("FC")(widths=(16,))
    >>> variables = module.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    >>> from_linen(module, variables)(jnp.zeros((2, 28, 28, 1))).shape
    (2, 10)
    """
    if not isinstance(variables, Mapping) or (variables and "params" not in variables):
        given = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(
            f"variables={given} has no collection 'params': pass all that module.init returned, "
            "{'params': ...}"
        )
    for name, value in apply_kwargs.items():
        if name in ("mutable", "rngs"):
            raise ValueError(
                f"{name}={value!r}: an attack needs a pure, deterministic model; leave {name} out "
                "and run the module in evaluation mode (train=False, deterministic=True)"
            )
        try:
            hash(value)
        except TypeError:
            raise ValueError(
                f"{name}={value!r} is part of the compiled program and must be hashable: "
                "pass a tuple or a number, or put arrays into variables"
            ) from None
    return Model(_Linen(module, tuple(sorted(apply_kwargs.items()))), variables, bounds)


@pytree
class _Linen:
    module: "nn.Module" = static()
    kwargs: tuple[tuple[str, Any], ...] = static(default=())

    def __call__(self, params: Params, images: Array) -> Array:
        from flax import errors

        try:
            logits: Any = self.module.apply(params, as_floats(images), **dict(self.kwargs))
            return logits
        except errors.ModifyScopeVariableError as error:
            if "batch_stats" in str(error):  # training mode, which the engine's check explains
                raise
            raise ValueError(
                f"module changes variables when called ({_message(error)}): turn that off, or drop "
                "the change with ja.Model(lambda v, x: module.apply(v, x, mutable=[...])[0], "
                "variables)"
            ) from error
        except errors.InvalidRngError as error:
            if '"dropout"' in str(error):
                raise
            raise ValueError(
                f"module draws at random when called ({_message(error)}): turn that off, or write "
                "it as ja.Model(apply, params, random=True)"
            ) from error


def _message(error: Exception) -> str:
    """Return Flax's message, without the address that it appends."""
    return str(error).partition(" (https://")[0].rstrip(".")


def from_nnx(module: "nnx.Module", bounds: Bounds = (0.0, 1.0)) -> Model:
    """Convert a Flax nnx module to a `ja.Model`, in evaluation mode.

    The user's module is never changed: dropout is made deterministic and batch normalisation uses
    its running averages in the model alone. The weights are those at the time of the call; convert
    again after training (nothing recompiles). Changes that a call makes in the module (a counter,
    the state of a random stream) are dropped.

    Args:
        module: Maps float32 images [N, H, W, C] to logits [N, K].
        bounds: Least and largest pixel value, numbers, or arrays that broadcast to one input.

    Returns:
        The model.

    Raises:
        ValueError: When the model is called, if the module updates batch statistics or its outputs
            are random in evaluation mode too.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jaxadv.models import from_nnx
    >>> module = nnx.Sequential(lambda x: x.reshape(len(x), -1), nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    >>> from_nnx(module)(jnp.zeros((5, 2, 2, 1))).shape
    (5, 3)
    """
    from flax import nnx

    if hasattr(nnx, "view"):
        module = nnx.view(
            module, raise_if_not_found=False, deterministic=True, use_running_average=True
        )
    else:
        module = nnx.clone(module)
        module.eval()
    graphdef, state = nnx.split(module)
    # Copied, so that a later in-place update of the user's variables has no effect.
    return Model(_Nnx(graphdef), jax.tree.map(lambda leaf: leaf, state), bounds)


@pytree
class _Nnx:
    graphdef: "nnx.GraphDef[Any]" = static()

    def __call__(self, params: Params, images: Array) -> Array:
        from flax import nnx

        images = as_floats(images)
        module = _merged(self.graphdef, params)
        before = jax.tree.leaves(nnx.state(module, nnx.BatchStat))
        logits = module(images)
        after = jax.tree.leaves(nnx.state(module, nnx.BatchStat))
        if any(new is not old for new, old in zip(after, before, strict=True)):
            raise ValueError(
                "module updates its batch statistics in evaluation mode too: let it call "
                "nnx.BatchNorm without use_running_average=False, and nnx.SpectralNorm with "
                "update_stats=False"
            )
        if _draws(self.graphdef, params, images):
            raise ValueError(
                "module draws at random in evaluation mode too: leave deterministic=False out of "
                "its calls, or write it as ja.Model(apply, params, random=True)"
            )
        return logits


def _merged(graphdef: "nnx.GraphDef[Any]", params: "nnx.State") -> Any:
    """Return the module with a copy of its variables: changes made by a call are dropped."""
    from flax import nnx

    try:
        return nnx.merge(graphdef, params, copy=True)
    except TypeError:  # Flax before 0.11.2 always copies
        return nnx.merge(graphdef, params)


def _draws(graphdef: "nnx.GraphDef[Any]", params: "nnx.State", images: Array) -> bool:
    """Return whether the output depends on a random key.

    That a key is drawn is no evidence: a recurrent cell whose carry begins at zero draws one too.
    """
    from flax import nnx

    keys, rest = nnx.split_state(params, nnx.RngKey, ...)
    return _depends(lambda keys: _merged(graphdef, nnx.merge_state(keys, rest))(images), keys)


def _depends(function: Callable[[PyTree], PyTree], inputs: PyTree) -> bool:
    """Return whether function(inputs) depends on any leaf of `inputs`; nothing is computed."""
    if not jax.tree.leaves(inputs):
        return False
    several = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), inputs)
    try:
        jax.eval_shape(jax.vmap(function, out_axes=None), several)
    except ValueError:  # vmap refuses outputs that differ between the two
        return True
    return False


def from_keras(model: Any, bounds: Bounds = (0.0, 1.0)) -> Model:
    """Convert a Keras 3 network to a `ja.Model`, in evaluation mode.

    The user's model is never changed: dropout is off and batch normalisation uses its moving
    averages in the converted model alone. The weights are copies of those at the time of the call;
    a second call on the same model object, as after training, compiles nothing anew.

    Args:
        model: A built `keras.Model` that maps images [N, H, W, C] to logits [N, K], so without a
            final softmax.
        bounds: Least and largest pixel value, numbers, or arrays that broadcast to one input.

    Returns:
        The model.

    Raises:
        ImportError: If Keras is not installed.
        ValueError: If Keras runs on another backend than jax, model is no Keras model or is not
            built; when the converted model is called, if it updates batch statistics or its outputs
            are random in evaluation mode too.

    >>> from jaxadv.models import from_keras
    >>> model = from_keras(keras.saving.load_model("digits.keras"))  # doctest: +SKIP
    """
    with extra("keras", "from_keras", ", and set KERAS_BACKEND=jax in the environment"):
        import keras  # pyright: ignore[reportMissingImports]
    if not isinstance(model, keras.Model):
        raise ValueError(f"model is {type(model).__name__}: pass a keras.Model of Keras 3")
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()!r}: set KERAS_BACKEND=jax in the environment "
            "before keras is imported, and load the model again"
        )
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built: call it once on an image")
    # Copied, since training donates its buffers.
    weights = [jnp.array(variable.value, copy=True) for variable in model.variables]
    return Model(_Keras(model), weights, bounds)


@pytree
class _Keras:
    model: Any = static()

    def __call__(self, params: Params, images: Array) -> Array:
        # By variable: their order stays, but which of them are trainable may have changed.
        values = {id(v): value for v, value in zip(self.model.variables, params, strict=True)}
        weights, others = (
            [values[id(v)] for v in variables]
            for variables in (self.model.trainable_variables, self.model.non_trainable_variables)
        )
        images = as_floats(images)
        logits, after = self.model.stateless_call(weights, others, images, training=False)
        paths = [variable.path for variable in self.model.non_trainable_variables]
        changed = [p for p, new, old in zip(paths, after, others, strict=True) if new is not old]
        if any("moving_" in path for path in changed):
            raise ValueError(
                f"model {self.model.name!r} updates its batch statistics in evaluation mode too: "
                "leave training=True out of its calls of layers"
            )
        seeds = {
            place: others[place]
            for place, path in enumerate(paths)
            if path in changed and "seed_generator_state" in path
        }

        def logits_of(seeds: Mapping[int, Array]) -> Array:
            other = [seeds.get(place, value) for place, value in enumerate(others)]
            return self.model.stateless_call(weights, other, images, training=False)[0]

        if _depends(logits_of, seeds):
            raise ValueError(
                f"model {self.model.name!r} draws at random in evaluation mode too: leave "
                "training=True out of its calls of layers, or write it as "
                "ja.Model(apply, params, random=True)"
            )
        return logits


def in_bfloat16(model: Model) -> Model:
    """Return the model computed in bfloat16: weights and images are rounded, logits are float32.

    It is meant for the search where half precision is fast; the model itself should judge:
    `ja.run(attack, in_bfloat16(model), ..., judge=model)`.

    Args:
        model: The model.

    Returns:
        The model in bfloat16.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> from jaxadv.models import in_bfloat16
    >>> model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, jnp.full((4, 2), 0.1))
    >>> in_bfloat16(model)(jnp.ones((1, 2, 2, 1))).dtype
    dtype('float32')
    """
    params = jax.tree.map(_rounded, model.params)
    return dataclasses.replace(model, apply=_Rounded(model.apply), params=params)


def _rounded(leaf: ArrayLike) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.bfloat16) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


@pytree
class _Rounded:
    apply: Callable[..., Array] = static()

    def __call__(self, params: Params, images: Array, *key: Array) -> Array:
        return self.apply(params, jnp.asarray(images, jnp.bfloat16), *key).astype(jnp.float32)


def normalized(model: Model, mean: Sequence[float], std: Sequence[float]) -> Model:
    """Return the model of `(images - mean) / std`; epsilon and bounds stay in the images' scale.

    Args:
        model: The model.
        mean: One number per channel, in the scale of the images.
        std: One positive number per channel, in the scale of the images.

    Returns:
        The model with this normalisation.

    Raises:
        ValueError: If mean and std differ in length or a std is not positive.

    >>> import jax.numpy as jnp, jaxadv.core.model as core
    >>> from jaxadv.models import normalized
    >>> model = normalized(core.from_function(lambda x: x.mean((1, 2))), (0.5, 0.5), (0.25, 0.5))
    >>> model(jnp.ones((1, 2, 2, 2))).tolist()
    [[2.0, 1.0]]
    """
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    if len(mean) != len(std) or not all(s > 0 for s in std):
        raise ValueError(f"std={std} with mean={mean}: pass one positive number per channel each")
    return dataclasses.replace(model, apply=_Normalized(model.apply, mean, std))


@pytree
class _Normalized:
    apply: Callable[..., Array] = static()
    mean: tuple[float, ...] = static()
    std: tuple[float, ...] = static()

    def __call__(self, params: Params, images: Float[Array, "N H W C"], *key: Array) -> Array:
        images = as_floats(images)
        mean, std = jnp.asarray(self.mean, images.dtype), jnp.asarray(self.std, images.dtype)
        return self.apply(params, (images - mean) / std, *key)


def linen_of(model: Model) -> "tuple[nn.Module, Params] | None":
    """Return the linen module and the variables of a model, None if it is no linen module.

    A module behind `normalized` is returned with its normalisation, under the same variables.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxadv.models.adapters import from_linen, linen_of, normalized
        >>> from jaxadv.models import get_definition
        >>> module, images = get_definition("FC")(widths=(4,)), jnp.ones((1, 2, 2, 3))
        >>> variables = module.init(jax.random.key(0), images)
        >>> model = normalized(from_linen(module, variables), (0.5,) * 3, (0.2,) * 3)
        >>> again, same = linen_of(model)
        >>> bool((again.apply(same, images) == model(images)).all())
        True
    """
    apply, normalisation = model.apply, None
    if isinstance(apply, _Normalized):
        apply, normalisation = apply.apply, (apply.mean, apply.std)
    if not isinstance(apply, _Linen) or apply.kwargs:
        return None
    if normalisation is None:
        return apply.module, model.params
    from jaxadv.models.definitions.layers import Normalized

    return Normalized(apply.module, *normalisation), model.params


def selected(model: Model, output: str | int) -> Model:
    """Return the model whose logits are one part of what the given one returns.

    Args:
        model: A model that returns a dict, a tuple or an object with attributes.
        output: The key, the index or the attribute of the logits.

    Returns:
        The model of that part.

    Raises:
        ValueError: When the model is called, if its output has no such part.

    >>> import jax.numpy as jnp, jaxadv as ja
    >>> from jaxadv.models import selected
    >>> both = ja.from_function(lambda x: {"logits": x.mean((1, 2)), "features": x})
    >>> selected(both, "logits")(jnp.ones((1, 2, 2, 3))).shape
    (1, 3)
    """
    return dataclasses.replace(model, apply=_Part(model.apply, output))


@pytree
class _Part:
    apply: Callable[..., Any] = static()
    name: str | int = static(default=0)

    def __call__(self, params: Params, images: Array, *key: Array) -> Array:
        whole = self.apply(params, images, *key)
        try:
            return whole[self.name]
        except (KeyError, IndexError, TypeError):
            if isinstance(self.name, str) and hasattr(whole, self.name):
                return getattr(whole, self.name)
        there = sorted(map(str, whole)) if isinstance(whole, Mapping) else type(whole).__name__
        raise ValueError(
            f"output={self.name!r} is no part of the model's output, which is {there}: pass its "
            "key or index"
        )
