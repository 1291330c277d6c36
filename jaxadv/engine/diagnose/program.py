"""Checks of the model's jaxpr: which operations lie between the image and the logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from jaxadv.core.model import Model
from jaxadv.engine.devices import APPLY
from jaxadv.engine.diagnose.finding import Finding, verdict

CUTS = {  # no derivative by design; comparisons and integers have none either
    "round",
    "floor",
    "ceil",
    "sign",
    "stop_gradient",
    "argmax",
    "argmin",
}
LOOPS = {"scan", "while"}
LIBRARIES = (str(Path(jax.__file__).parent), str(Path(__file__).parents[2]), "site-packages", "<")


class Program(NamedTuple):
    """The findings of a scan of the jaxpr, from the images to the logits.

    Attributes:
        connected: Whether any derivative can reach the logits.
        cuts: Operations without a derivative, with their places.
        callbacks: Operations that leave JAX, with their places.
        inner: Places where the model takes gradients itself.
        rounding: Machine epsilon of the least precise floats.
    """

    connected: bool
    cuts: list[str]
    callbacks: list[str]
    inner: list[str]
    rounding: float


def _place(eqn: JaxprEqn) -> str:
    """Return where the user's code calls the operation, " (file:line)", or an empty text."""
    frames = getattr(getattr(eqn.source_info, "traceback", None), "frames", ())
    own = [f for f in frames if not any(part in f.file_name for part in LIBRARIES)]
    return f" ({own[0].file_name.rsplit('/', 1)[-1]}:{own[0].line_num})" if own else ""


def _bodies(eqn: JaxprEqn) -> list[Jaxpr]:
    nested = jax.tree.leaves(eqn.params, is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr))
    return [
        v.jaxpr if isinstance(v, ClosedJaxpr) else v
        for v in nested
        if isinstance(v, ClosedJaxpr | Jaxpr)
    ]


class _Scan:
    """A walk of the images through a jaxpr.

    Values that depend on the images are `reached`; those with a derivative are `sloped`.
    """

    def __init__(self) -> None:
        self.cuts: dict[str, None] = {}  # in order, each once
        self.callbacks: dict[str, None] = {}
        self.inner: dict[str, None] = {}
        self.rounding = float(jnp.finfo(jnp.float32).eps)

    def follow(
        self, jaxpr: Jaxpr, reached: list[bool], sloped: list[bool], place: str = "", loop: str = ""
    ) -> tuple[list[bool], list[bool]]:
        """Return (reached, sloped) of the outputs, given those of the inputs."""
        depends = {v for v, flag in zip(jaxpr.invars, reached, strict=True) if flag}
        slopes = {v for v, flag in zip(jaxpr.invars, sloped, strict=True) if flag}

        def among(variables: Sequence[Var | Literal], chosen: set[Var]) -> list[bool]:
            return [not isinstance(v, Literal) and v in chosen for v in variables]

        for eqn in jaxpr.eqns:
            given, moving = among(eqn.invars, depends), among(eqn.invars, slopes)
            if not any(given):
                continue
            name, here = eqn.primitive.name, _place(eqn) or place
            out_given = [True] * len(eqn.outvars)
            out_moving = [any(moving)] * len(eqn.outvars)
            bodies = _bodies(eqn)
            if "transpose(" in str(eqn.source_info.name_stack):
                self.inner[f"{loop}{here}"] = None
            if "callback" in name:
                self.callbacks[f"{name}{here}"] = None
                out_moving = [False] * len(eqn.outvars)
            elif name in CUTS:
                if any(moving):
                    self.cuts[f"{name}{here}"] = None
                out_moving = [False] * len(eqn.outvars)
            elif name.startswith("custom_"):  # the author defines its derivative
                pass
            elif len(bodies) == 1 and len(bodies[0].invars) == len(given) and name not in LOOPS:
                out_given, out_moving = self.follow(bodies[0], given, moving, here, loop)
            else:  # loops and branches: assume that every input reaches every output
                within = " in a loop" if name in LOOPS else loop
                for body in bodies:
                    flags = [True] * len(body.invars)
                    self.follow(body, flags, [any(moving)] * len(flags), here, within)
            for variable, is_given, is_moving in zip(
                eqn.outvars, out_given, out_moving, strict=True
            ):
                kind = getattr(variable.aval, "dtype", np.dtype(bool))
                inexact = jnp.issubdtype(kind, jnp.inexact)
                if is_given:
                    depends.add(variable)
                if is_given and inexact:
                    self.rounding = max(self.rounding, float(jnp.finfo(kind).eps))
                if is_moving and inexact:
                    slopes.add(variable)
        return among(jaxpr.outvars, depends), among(jaxpr.outvars, slopes)


def read_program(model: Model, shape: tuple[int, ...]) -> Program:
    """Scan the model's jaxpr for images of `shape` [H, W, C]; nothing is computed."""
    jaxpr = APPLY.trace(model, jax.ShapeDtypeStruct((2, *shape), np.float32)).jaxpr.jaxpr
    last = [False] * (len(jaxpr.invars) - 1) + [True]  # the images are the last argument
    scan = _Scan()
    _, sloped = scan.follow(jaxpr, last, last)
    return Program(
        any(sloped), list(scan.cuts), list(scan.callbacks), list(scan.inner), scan.rounding
    )


def operations(program: Program) -> Finding:
    """Check whether a derivative can pass from the image to the logits."""
    message = ""
    if program.callbacks:
        message = f"the model leaves JAX by {', '.join(program.callbacks)}: gradients stop there; "
        message += "pass attacks without gradients"
    elif not program.connected:
        cuts = ", ".join(program.cuts) or "a comparison or an integer"
        message = f"{cuts} lies between image and logits and has no gradient: replace it by the "
        message += "identity in the backward pass, or pass attacks without gradients"
    return verdict("operations", message)


def no_gradients_inside(program: Program) -> Finding:
    """Check whether the model takes gradients in its forward pass."""
    places = ", ".join(dict.fromkeys(place.strip() for place in program.inner if place.strip()))
    return verdict(
        "no optimisation inside",
        f"the model takes gradients in its forward pass{f' ({places})' if places else ''}: it "
        "optimises at inference, so attacks only give an upper bound of its robust accuracy; "
        "attack through all its steps, and transfer from the model without them"
        if program.inner
        else "",
    )
