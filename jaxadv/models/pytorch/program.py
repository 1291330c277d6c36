"""Reading an exported program: torch decomposes it, and its nodes become values without torch."""

# pyright: reportMissingImports=false
import copy
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import torch
import torch.utils._pytree
from jaxtyping import Array

from jaxadv.models.pytorch.export import entrance, quiet
from jaxadv.models.pytorch.node import Node, Program, Reference
from jaxadv.models.pytorch.operators import PYTHON, RANDOM, WHOLE, find
from jaxadv.models.tensor import Tensor

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Node as TorchNode

DROPPED = ("device", "layout", "memory_format", "non_blocking", "pin_memory")
ALTERNATIVES = (
    "write them otherwise in the module, export it to ONNX for ja.from_onnx, or attack it without "
    "gradients with ja.from_function"
)


def read(
    exported: "ExportedProgram", output: str | int | None
) -> tuple[Program, dict[str, Array], int]:
    """Return the program of the logits, its weights by name, and the place of the logits."""
    images = entrance(exported)
    table = torch.export.default_decompositions()
    for operator in [op for op in table if str(op).split(".")[1] in WHOLE]:
        del table[operator]
    with quiet():
        exported = _stopped(exported).run_decompositions(table)
    signature = exported.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if changed:
        raise ValueError(
            f"module changes {', '.join(map(repr, changed))} when called: call module.eval(), and "
            "leave such changes out of evaluation mode"
        )
    leaf = _choose(exported, output)
    end = exported.graph.output_node().args[0][leaf]
    needed = _needed(end)
    nodes, unknown = [], []
    constants, weights, names = [], {}, []
    for node in (n for n in exported.graph.nodes if n in needed):
        if node.op == "placeholder" and node.name != images.name:
            name, array = _stored(exported, node.name)
            if jnp.issubdtype(array.dtype, jnp.floating):
                weights[name] = jnp.array(array, copy=True)
                names.append((node.name, name))
            else:
                constants.append((node.name, Tensor.of(array)))
        elif node.op == "call_function":
            made = _node(node)
            nodes.append(made)
            unknown += [made] if find(made.operator) is None else []
        elif node.op == "get_attr":
            unknown.append(Node(f"{node.target}", node.name, (), (), _module(node)))
    if unknown:
        raise ValueError(_unsupported(unknown))
    program = Program(
        tuple(nodes), tuple(constants), tuple(names), images.name, end.name, images.batch
    )
    return program, weights, leaf


def _stopped(exported: "ExportedProgram") -> "ExportedProgram":
    """Return the program in which what is computed under torch.no_grad() has no gradient.

    The decomposition would forget it.
    """

    def without(nodes: Iterable["TorchNode"]) -> list["TorchNode"]:
        name = "wrap_with_set_grad_enabled"
        return [n for n in nodes if str(n.target) == name and n.args[0] is False]

    if not without(exported.graph.nodes):
        return exported
    kept = [*exported.state_dict.values(), *exported.constants.values()]
    exported = copy.deepcopy(exported, {id(tensor): tensor for tensor in kept})
    for node in without(exported.graph.nodes):
        graph = getattr(exported.graph_module, node.args[1].target).graph
        end = graph.output_node()
        with graph.inserting_before(end):
            for result in end.all_input_nodes:
                detached = graph.call_function(torch.ops.aten.detach.default, (result,))
                detached.meta = dict(result.meta)
                end.replace_input_with(result, detached)
    return exported


def _choose(exported: "ExportedProgram", output: str | int | None) -> int:
    """Return the position of the logits among the tensors that the module returns."""
    spec = exported.call_spec.out_spec
    if spec is None:
        raise ValueError("the program does not tell what it returns: export it again")
    count = spec.num_leaves
    tree = torch.utils._pytree.tree_unflatten(list(range(count)), spec)
    try:
        if output is None:
            chosen = tree if count > 1 else 0
        elif isinstance(output, int) or isinstance(tree, dict):
            chosen = tree[output]
        else:
            chosen = getattr(tree, output)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise ValueError(f"output={output!r}: module returns {_described(tree)}") from None
    if not isinstance(chosen, int):
        which = "several tensors" if output is None else f"no single tensor as {output!r}"
        raise ValueError(
            f"module returns {which}, {_described(tree)}: pass output= the position, key or name "
            "of the logits (on the command line --logits-of)"
        )
    return chosen


def _described(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a {type(tree).__name__} with {list(tree)}"
    if isinstance(tree, tuple | list) and not hasattr(tree, "_fields"):
        return f"a {type(tree).__name__} of {len(tree)}"
    names = getattr(tree, "_fields", None) or list(vars(tree)) if not isinstance(tree, int) else []
    return f"a {type(tree).__name__} with {list(names)}" if names else "one tensor"


def _needed(end: "TorchNode") -> set["TorchNode"]:
    """Return all nodes on which one depends, and itself."""
    needed, left = set(), [end]
    while left:
        node = left.pop()
        if node not in needed:
            needed.add(node)
            left += node.all_input_nodes
    return needed


def _stored(exported: "ExportedProgram", placeholder: str) -> tuple[str, np.ndarray]:
    """Return the name and the value of a parameter, buffer or constant; floats in float32."""
    signature = exported.graph_signature
    for table in (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    ):
        if placeholder in table:
            name = table[placeholder]
            stored = exported.state_dict.get(name, exported.constants.get(name))
            tensor = stored.detach().cpu()
            return name, (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    raise ValueError(f"module holds {placeholder!r}, which is no tensor")


def _node(node: "TorchNode") -> Node:
    module = getattr(node.target, "__module__", "")
    if isinstance(node.target, torch._ops.OpOverload):
        space, operator, overload = str(node.target).split(".")
        name = f"{operator}.{overload}" if space == "aten" else f"{space}::{operator}.{overload}"
    else:
        name = getattr(node.target, "__name__", str(node.target))
        name = PYTHON + name if module in ("_operator", "math", "torch", "builtins") else name
    options = {k: _value(v) for k, v in node.kwargs.items() if k not in DROPPED}
    arguments = tuple(_value(argument) for argument in node.args)
    return Node(name, node.name, arguments, tuple(sorted(options.items())), _module(node))


def _value(value: Any) -> Any:
    """Return an argument as a hashable value."""
    if isinstance(value, torch.fx.Node):
        return Reference(value.name)
    if isinstance(value, tuple | list):
        return tuple(map(_value, value))
    if isinstance(value, torch.dtype):
        if value.is_floating_point:
            return "float32"
        return str(value).removeprefix("torch.")
    return value


def _module(node: "TorchNode") -> str:
    """Return the path and the class of the module that calls an operator."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = [*stack.values()][-1] if stack else ("", "module")
    kind = kind if isinstance(kind, str) else kind.__name__
    path = path.removeprefix("L['self']").removeprefix(".")
    return f"{path} ({kind.rpartition('.')[2]})" if path else kind.rpartition(".")[2]


def _unsupported(nodes: Sequence[Node]) -> str:
    places: dict[str, list[str]] = {}
    for node in nodes:
        places.setdefault(node.operator, []).append(node.module)
    lines = []
    for operator, modules in sorted(places.items()):
        where = list(dict.fromkeys(modules))
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        lines.append(f"{operator} in {', '.join(where[:3])}{more}")
    drawn = [op for op in places if op.partition(".")[0] in RANDOM]
    if drawn:
        return (
            "module draws at random in evaluation mode too: "
            + "; ".join(line for line in lines if line.partition(" ")[0] in drawn)
            + ": leave that out, or write the network as ja.Model(apply, params, random=True)"
        )
    return "operators that are not supported: " + "; ".join(lines) + f": {ALTERNATIVES}"
