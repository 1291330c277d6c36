"""The contract of an attack, checked by shapes and types alone, before anything is compiled."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, PyTree

from jaxadv.core.attack import Answer, Attack, Needs, Problem, types_of
from jaxadv.core.goals import Goal

WHOLE = ("queries", "pullbacks", "entries", "ticks")  # what an attack counts in


def check_pytree(attack: Attack) -> None:
    """Check that an attack can be the argument of a compiled program.

    Args:
        attack: Any attack.

    Raises:
        ValueError: Its class, or that of an attack inside it, is not decorated; a setting that is
            no array is not static, or an array is static; or a new default has no
            annotation, so that the dataclass does not see it.
    """
    for path, leaf in jax.tree.leaves_with_path(attack):
        if isinstance(leaf, Attack):
            name = type(leaf).__name__
            raise ValueError(f"{name} is not decorated: decorate {name} with @ja.pytree")
        if not _is_array(leaf):
            raise ValueError(
                f"{type(attack).__name__}{_place(path)} is {_short(leaf)}, which is no array: "
                "declare the field with ja.static(...)"
            )
    _check_fields(attack)


def _check_fields(attack: Attack) -> None:
    kind = type(attack)
    for field in dataclasses.fields(attack):  # type: ignore[arg-type]
        default = inspect.getattr_static(kind, field.name, field.default)
        if default is not field.default and not isinstance(default, property):
            raise ValueError(
                f"{kind.__name__}.{field.name} = {default!r} has no annotation and would be "
                f"ignored: write {field.name}: {type(default).__name__} = ..."
            )
        value = getattr(attack, field.name)
        if field.metadata.get("static") and isinstance(value, np.ndarray | jax.Array):
            raise ValueError(
                f"{kind.__name__}.{field.name} is an array and static: declare it without ja.static"
            )
        if isinstance(value, Attack):
            _check_fields(value)


def check_contract(
    attack: Attack, goal: Goal, shape: tuple[int, ...], classes: int, key: Array, start: bool
) -> None:
    """Check what every method of an attack returns: its axes, its types and its state.

    Nothing is computed or compiled, and the model is not called. The methods are traced once for
    each kind of attack and of problem.

    Args:
        attack: The attack, specialized for this goal and number of classes.
        goal: The goal of a run, of any number of images.
        shape: (height, width, channels) of an image.
        classes: Number of classes.
        key: The random key of the run.
        start: Whether the run has images to begin from.

    Raises:
        ValueError: A method is missing, fails, or returns something else than the engine needs. The
            message names the attack, the method and what to return.
    """
    name = attack.name
    for field in WHOLE:
        with _named(f"{name}.{field}"):
            count = getattr(attack, field)
        least = 0 if field == "pullbacks" else 1
        if not isinstance(count, int) or count < least:
            raise ValueError(f"{name}.{field} is {count!r}: make it an integer, {least} or more")
    attack.check_norm()
    if attack.label_only and attack.pullbacks:
        raise ValueError(f"{name} is label_only but needs gradients: set pullbacks = 0")
    number, image = _like(), _like(*shape)
    fields = {
        "image": image,
        "goal": jax.tree.map(lambda leaf: _like(*leaf.shape[1:], dtype=leaf.dtype), goal),
        "epsilon": number,
        "lower": number,
        "upper": number,
        "clean_logits": _like(classes),
        "rank": _like(dtype=jnp.int32),
        "start": image if start else None,
    }
    try:
        _traced.eval_shape(attack, fields, key)
    except ValueError as error:  # raised anew, without what JAX adds to it
        raise ValueError(str(error)) from error.__cause__


@jax.jit  # used for shapes only: jit remembers what it has traced
def _traced(attack: Attack, fields: dict[str, Any], key: Array) -> None:
    """Trace one tick as the engine does, each method apart from what the others computed."""
    problem = Problem(**fields)
    queries, pullbacks, shape = attack.queries, attack.pullbacks, problem.image.shape
    logits = _like(queries, len(problem.clean_logits), dtype=attack.precision)

    def returned(method: str, *arguments: PyTree) -> PyTree:
        with types_of(attack), _named(f"{attack.name}.{method}"):
            return _shapes(getattr(attack, method), *arguments)

    def check(method: str, value: object, axes: str, *sizes: int, kind: DTypeLike) -> None:
        _check_array(f"{attack.name}.{method}", value, axes, sizes, kind)

    state = returned("init", problem, key)
    for path, leaf in jax.tree.leaves_with_path(state):
        if not _is_array(leaf):
            raise ValueError(
                f"{attack.name}.init returned a state whose leaf {_place(path)} is {_short(leaf)}: "
                "a state holds arrays only; settings are fields of the attack"
            )
    images = returned("ask", problem, state)
    check("ask", images, "[queries, H, W, C]", queries, *shape, kind=jnp.floating)
    needs = returned("needs", problem, state)
    if not isinstance(needs, Needs):
        raise ValueError(
            f"{attack.name}.needs returned {_short(needs)}: return ja.Needs(answers, gradients)"
        )
    mask = {"axes": "[queries]", "kind": jnp.bool_}
    for which, values in zip(needs._fields, needs, strict=True):
        _check_array(f"{attack.name}.needs, {which}:", values, sizes=(queries,), **mask)
    used = returned("used", problem, state, logits, needs.answers)
    _check_array(f"{attack.name}.used", used, sizes=(queries,), **mask)
    objective = returned("objective", problem.goal, _like(*logits.shape[1:], dtype=logits.dtype))
    check("objective", objective, "[]", kind=jnp.floating)
    gradients = None
    if pullbacks:
        cotangents = returned("cotangents", problem, state, logits)
        sizes = (queries, pullbacks, logits.shape[1])
        check("cotangents", cotangents, "[queries, pullbacks, classes]", *sizes, kind=logits.dtype)
        gradients = _like(queries, pullbacks, *shape, dtype=images.dtype)
    told = returned("tell", problem, state, Answer(logits, gradients, needs.answers, used))
    _check_state(attack.name, state, told)
    done = returned("done", problem, state)
    check("done", done, "[]", kind=jnp.bool_)


def _like(*shape: int, dtype: DTypeLike = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))


def _shapes(function: Callable[..., Any], *arguments: PyTree) -> PyTree:
    """Return what a function returns, with arrays and numbers as shapes and types."""
    others: list[Any] = []

    def arrays_of(*arguments: PyTree) -> list[Any]:
        leaves, structure = jax.tree.flatten(function(*arguments))
        others[:] = structure, [None if _is_array(leaf) else leaf for leaf in leaves]
        return [leaf for leaf in leaves if _is_array(leaf)]

    arrays = iter(jax.eval_shape(arrays_of, *arguments))
    structure, rest = others
    return structure.unflatten([next(arrays) if leaf is None else leaf for leaf in rest])


def _is_array(leaf: object) -> bool:
    return hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float | complex)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Raise errors anew with one line that says where; the cause keeps the details."""
    try:
        yield
    except NotImplementedError as error:  # the base class says what is not defined
        raise ValueError(str(error) or f"{where} is not implemented") from error
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{where}: {kind}{first}") from error


def _check_array(
    where: str, value: Any, axes: str, sizes: tuple[int, ...], kind: DTypeLike
) -> None:
    """Raise ValueError unless `value` is an array of this shape and type."""
    wanted = "bool" if kind is jnp.bool_ else "float" if kind is jnp.floating else str(kind)
    given = _short(value)
    if not hasattr(value, "shape") or value.shape != sizes:
        size = f", here {list(sizes)}" if sizes else ", a single one"
        raise ValueError(f"{where} returned {given}: return {axes}{size}")
    if not jnp.issubdtype(value.dtype, kind):
        raise ValueError(f"{where} returned {given}: return {wanted}{list(sizes)}")


def _check_state(name: str, before: PyTree, after: PyTree) -> None:
    """Raise ValueError if `tell` returns another structure, shape or type than `init`."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        old, new = (f"{jax.tree.structure(state)}" for state in (before, after))
        raise ValueError(
            f"{name}.tell returned a state of another structure, {_cut(new)}, than init, "
            f"{_cut(old)}: return the same fields"
        )
    pairs = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, old), new in pairs:
        if not _is_array(new) or (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ValueError(
                f"{name}: the leaf {_place(path) or 'of the state'} is {_short(old)} from init and "
                f"{_short(new)} from tell: keep its shape and type"
            )


def _place(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path)


def _short(value: Any) -> str:
    """An array by its type and shape, all else by its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return f"{_cut(repr(value))} ({type(value).__name__})"


def _cut(text: str, most: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."
