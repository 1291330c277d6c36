"""Frozen dataclasses that are pytrees: the form of every attack, goal, model and problem."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

import jax
import numpy as np

from jaxadv.core.typing import Index, Number

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def static(default: object = dataclasses.MISSING) -> Any:
    """Declare a field that is part of the program (compared by value), not of its input."""
    return dataclasses.field(default=default, metadata={"static": True})


def _to_float32(self: "DataclassInstance") -> None:
    # A Python number would be weakly typed: another dtype, hence another compilation.
    for field in dataclasses.fields(self):
        value = getattr(self, field.name)
        if not field.metadata.get("static") and type(value) in (float, int):
            object.__setattr__(self, field.name, np.float32(value))


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it as a pytree.

    Fields are leaves; those declared with `static()` belong to the structure of the tree and must
    be hashable. Python numbers in leaves become float32 on construction. (flax.struct offers the
    same, but importing flax takes longer than importing all of jaxadv.)

    Args:
        cls: A class with annotated fields; its `__post_init__`, if it has one, is called last.

    Returns:
        The dataclass.
    """
    check = getattr(cls, "__post_init__", None)  # the class's own, or its parent's

    def __post_init__(self: "DataclassInstance") -> None:
        _to_float32(self)
        if check is not None:
            check(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if f.name not in meta]
    _register(cls, data, meta)
    return cls


def _register(cls: type, data: list[str], meta: list[str]) -> None:
    """Register `cls` with the fields `data` as leaves and the fields `meta` as structure.

    JAX rebuilds pytrees with leaves of every kind: tracers, shapes, axes, None. They are no values
    of the fields, so `__init__` and its checks are left out.
    """

    def values(self: object, names: list[str]) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in names)

    def flatten_with_keys(self: object) -> tuple[Any, tuple[Any, ...]]:
        keys = map(jax.tree_util.GetAttrKey, data)
        return tuple(zip(keys, values(self, data), strict=True)), values(self, meta)

    def flatten(self: object) -> tuple[Any, tuple[Any, ...]]:
        return values(self, data), values(self, meta)

    def unflatten(structure: tuple[Any, ...], leaves: Iterable[Any]) -> object:
        self = object.__new__(cls)
        self.__dict__.update(
            zip(data, leaves, strict=True), **dict(zip(meta, structure, strict=True))
        )
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def take(tree: T, index: Index) -> T:
    """Return rows `index` of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def where(mask: jax.Array, new: T, old: T) -> T:
    """Return, leaf by leaf, `new` where `mask` holds and `old` elsewhere.

    Args:
        mask: A scalar, or [N] for leaves whose first axis is N.
        new: A pytree.
        old: A pytree of the same structure.

    Returns:
        A pytree of the same structure.
    """

    def pick(a: Number, b: Number) -> jax.Array:
        more = max(jax.numpy.ndim(a), jax.numpy.ndim(b)) - mask.ndim
        return jax.numpy.where(mask.reshape(mask.shape + (1,) * more), a, b)

    return jax.tree.map(pick, new, old)
