"""Weights go to the layers whose names they carry, in whatever order a file lists them.

The right values are plain numpy forward passes with the same arrays, or torch's own.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import jaxadv as ja
from jaxadv.models import DEFINITIONS, from_nnx, from_torch_arrays, load_weights, save_weights
from jaxadv.models.weights import flatten, variable_shapes

RNG = np.random.default_rng(0)
SHAPE = (2, 2, 3)
IMAGES = RNG.random((20, *SHAPE), np.float32)
DEPTH = 13  # numbers of two digits, so that "10" sorts before "2"


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32) / np.sqrt(shape[-1])


def dense(names, width=8, inputs=12):
    """The arrays of dense layers of those names, {name: (weight, bias)}; all but one are square."""
    return {n: (draw(width, inputs if i == 0 else width), draw(width)) for i, n in enumerate(names)}


def state_dict(layers):
    return {
        f"{name}.{kind}": array
        for name, arrays in layers.items()
        for kind, array in zip(("weight", "bias"), arrays, strict=True)
    }


def flat(images):
    """In torch's order."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def logits(layers, x):
    """A plain forward pass through dense layers, tanh between them."""
    for number, (weight, bias) in enumerate(layers):
        x = (np.tanh(x) if number else x) @ weight.T + bias
    return x


class Tower(nn.Module):
    depth: int = DEPTH
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for number in range(self.depth):
            x = nn.Dense(self.width)(jnp.tanh(x) if number else x)
        return x


ORDERS = {
    "torch": list,
    "reversed": lambda names: list(names)[::-1],
    "sorted": sorted,
    "shuffled": lambda names: RNG.permutation(list(names)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.backbone.0."])
def test_numbers_are_numbers_in_whatever_order_they_are_listed(order, prefix):
    layers = dense([f"{2 * i}" for i in range(DEPTH)])
    state = {prefix + name: array for name, array in state_dict(layers).items()}
    listed = {name: state[name] for name in ORDERS[order](state)}
    model = from_torch_arrays(Tower(), listed, image_shape=SHAPE)
    np.testing.assert_allclose(model(IMAGES), logits(layers.values(), flat(IMAGES)), atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_that_list_names_alphabetically(tmp_path, suffix):
    layers, path = dense([f"net.{2 * i}" for i in range(DEPTH)]), tmp_path / f"net{suffix}"
    state = dict(sorted(state_dict(layers).items()))
    if suffix == ".npz":
        np.savez(path, **state)
    else:
        safetensors.numpy.save_file(state, path)
    model = from_torch_arrays(Tower(), path, image_shape=SHAPE)
    np.testing.assert_allclose(model(IMAGES), logits(layers.values(), flat(IMAGES)), atol=1e-5)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Conv(3, (1, 1), use_bias=False)(x)
        y = nn.BatchNorm(use_running_average=True)(y)
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(3, (1, 1), use_bias=False)(jnp.tanh(y)))
        return x + y


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(11):
            x = Block()(x)
        return x.mean((1, 2))


def test_blocks_and_normalisations_of_one_shape_are_told_apart_by_their_numbers():
    state, x = {}, IMAGES
    for block in range(11):
        y = x
        for number in (1, 2):
            kernel, (scale, bias, mean), var = draw(3, 3, 1, 1), draw(3, 3), draw(3) ** 2 + 0.5
            norm = {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var}
            norm["num_batches_tracked"] = np.array(3)
            state[f"layer{block}.conv{number}.weight"] = kernel
            state |= {f"layer{block}.bn{number}.{kind}": array for kind, array in norm.items()}
            y = (np.tanh(y) if number == 2 else y) @ kernel[:, :, 0, 0].T
            y = (y - mean) / np.sqrt(var + 1e-5) * scale + bias
        x = x + y
    listed = {name: state[name] for name in RNG.permutation(list(state))}
    model = from_torch_arrays(Residual(), listed, image_shape=SHAPE)
    np.testing.assert_allclose(jax.jit(lambda m, x: m(x))(model, IMAGES), x.mean((1, 2)), atol=1e-4)


class Backwards(nn.Module):
    """Calls its layers from the last to the first."""

    def setup(self):
        self.layers = [nn.Dense(12) for _ in range(11)]

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        for number, layer in enumerate(reversed(self.layers)):
            x = layer(jnp.tanh(x) if number else x)
        return x


def test_equal_names_go_before_the_order_of_the_calls():
    layers = dense([f"model.layers.{i}" for i in range(11)], width=12)
    model = from_torch_arrays(Backwards(), state_dict(layers), image_shape=(1, 1, 12))
    images = RNG.random((5, 1, 1, 12), np.float32)
    expected = logits(list(layers.values())[::-1], flat(images))
    np.testing.assert_allclose(model(images), expected, atol=1e-5)


SETTINGS = {
    "AlexNet": {"channels": (4,) * 5, "width": 8},
    "WideResNet": {"depth": 16, "width": 1},
    "ResNet50": {"blocks": (1, 1, 1, 1)},
    "ViT": {"width": 12},
}
KINDS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_definition_takes_its_names_in_any_order_behind_any_prefix(name):
    module = DEFINITIONS[name](**SETTINGS.get(name, {}))
    shape = (224, 224, 3) if name == "AlexNet" else (32, 32, 3)
    state, markers = {}, {}
    for marker, (path, size) in enumerate(sorted(variable_shapes(module, shape).items())):
        *layer, last = path.split("/")[1:]
        size = (size[-1], size[-2], *size[:-2]) if last == "kernel" else size
        key = ".".join(["module.backbone.0", *layer, KINDS.get(last, last)])
        state[key], markers[path] = np.broadcast_to(np.float32(marker), size), marker
    listed = {name: state[name] for name in RNG.permutation(list(state))}
    placed = flatten(from_torch_arrays(module, listed, image_shape=shape).params)
    assert {path: (array.min(), array.max()) for path, array in placed.items()} == {
        path: (marker, marker) for path, marker in markers.items()
    }


def test_numbers_that_contradict_the_order_of_the_calls_decide_nothing():
    state = state_dict(dense([f"{2 * i}" for i in range(11)], width=12))
    with pytest.raises(ValueError, match=r"params/layers_10/kernel .12, 12.* \| 0\.weight"):
        from_torch_arrays(Backwards(), state, image_shape=(1, 1, 12))


@pytest.mark.parametrize(
    "names",
    [
        ["stem", "encoder", "head", "alpha"],  # in torch's order, and in no other
        ["stem", "q", "k", "v"],
        ["stem", "fc", "fc2", "fc3"],  # no number is no 0 or 1
        ["stem", "branch1x1", "branch5x5", "branch3x3"],  # sizes, not places
        ["stem", "a.0", "a.1", "b.0"],
        ["0", "1", "skip", "3"],
    ],
    ids="-".join,
)
def test_names_that_do_not_decide_are_refused_until_names_are_given(names):
    layers = dense(names)
    state = state_dict(layers)
    with pytest.raises(ValueError, match="names={torch layer: Flax layer}") as caught:
        from_torch_arrays(Tower(depth=4), state, image_shape=SHAPE)
    for part in (
        f"{names[1]}.weight (8, 8)",
        f"{names[3]}.bias (8,)",
        "params/Dense_3/kernel (8, 8)",
    ):
        assert part in str(caught.value)
    assert "Dense_0" not in str(caught.value)  # the first has a shape of its own
    told = {name: f"Dense_{i}" for i, name in enumerate(names)}
    model = from_torch_arrays(Tower(depth=4), state, image_shape=SHAPE, names=told)
    np.testing.assert_allclose(model(IMAGES), logits(layers.values(), flat(IMAGES)), atol=1e-5)


def test_names_are_given_only_where_they_are_needed():
    layers = dense(["module.stem", "module.block.0", "module.block.1", "module.last"])
    for key in ("last", "module.last"):
        model = from_torch_arrays(
            Tower(depth=4), state_dict(layers), image_shape=SHAPE, names={key: "Dense_3"}
        )
        np.testing.assert_allclose(model(IMAGES), logits(layers.values(), flat(IMAGES)), atol=1e-5)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Tower(3)(x) - 2 * Tower(3)(x)


def test_modules_can_be_named_and_their_layers_are_paired_among_themselves():
    first = dense(["student.0", "student.2", "student.10"])
    second = dense(["teacher.1", "teacher.3", "teacher.5"])
    state = state_dict(second | first)
    with pytest.raises(ValueError, match=r"student\.10\.weight"):
        from_torch_arrays(Two(), state, image_shape=SHAPE)
    names = {"student": "Tower_0", "teacher": "Tower_1"}
    model = from_torch_arrays(Two(), state, image_shape=SHAPE, names=names)
    expected = [logits(layers.values(), flat(IMAGES)) for layers in (first, second)]
    np.testing.assert_allclose(model(IMAGES), expected[0] - 2 * expected[1], atol=1e-5)


def test_single_arrays_can_be_named():
    layers = dense(["0", "1"])
    (w0, b0), (w1, b1) = layers.values()
    state = {"attn.in_proj_weight": w0, "attn.in_proj_bias": b0, "out.gamma": w1, "out.beta": b1}
    with pytest.raises(ValueError, match=r"attn\.in_proj_weight \(8, 12\)"):
        from_torch_arrays(Tower(2), state, image_shape=SHAPE)
    names = {
        "attn.in_proj_weight": "Dense_0/kernel",
        "attn.in_proj_bias": "params/Dense_0/bias",
        "out.gamma": "Dense_1/kernel",
        "out.beta": "Dense_1/bias",
    }
    model = from_torch_arrays(Tower(2), state, image_shape=SHAPE, names=names)
    np.testing.assert_allclose(model(IMAGES), logits(layers.values(), flat(IMAGES)), atol=1e-5)


def test_two_torch_layers_for_one_flax_layer_are_refused():
    state = state_dict(dense(["0", "1", "2"]))
    with pytest.raises(ValueError, match="'2' or 'Dense_1' has been given before"):
        from_torch_arrays(
            Tower(3), state, image_shape=SHAPE, names={"1": "Dense_1", "2": "Dense_1"}
        )


@pytest.mark.parametrize("depth", [3, 5])
def test_a_layer_too_few_or_too_many_is_refused(depth):
    with pytest.raises(ValueError, match="-  *\\| 3" if depth == 3 else "Dense_4/kernel .8, 8."):
        from_torch_arrays(Tower(depth), state_dict(dense("0123")), image_shape=SHAPE)


class Transposed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.ConvTranspose(3, (2, 2), name="up")(x).mean((1, 2))


@pytest.mark.parametrize(
    ("module", "state", "message"),
    [
        (Transposed(), {"up.weight": draw(3, 3, 2, 2), "up.bias": draw(3)}, "transposed.*, up:"),
        (Tower, {}, "instance of a Flax linen module"),
        (Tower(2), {"state_dict": state_dict(dense("01"))}, "'state_dict'.* is a dict"),
    ],
)
def test_what_cannot_be_paired_is_said(module, state, message):
    with pytest.raises(ValueError, match=message):
        from_torch_arrays(module, state, image_shape=SHAPE)


def test_a_sequential_that_torch_saved(tmp_path):
    torch = pytest.importorskip("torch")
    import safetensors.torch

    torch.manual_seed(0)
    parts = [torch.nn.Flatten()]
    for number in range(DEPTH):
        parts += [torch.nn.Tanh()] * (number > 0) + [torch.nn.Linear(8 if number else 12, 8)]
    network, path = torch.nn.Sequential(*parts), tmp_path / "net.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    images = torch.tensor(IMAGES.transpose(0, 3, 1, 2))
    expected = network(images).detach().numpy()
    for arrays in (path, dict(network.named_parameters())):
        model = from_torch_arrays(Tower(), arrays, image_shape=SHAPE)
        np.testing.assert_allclose(model(IMAGES), expected, atol=1e-5)
    expected = network.bfloat16().float()(images).detach().numpy()
    model = from_torch_arrays(Tower(), network.bfloat16().state_dict(), image_shape=SHAPE)
    np.testing.assert_allclose(model(IMAGES), expected, atol=1e-5)


class Encoder(nn.Module):
    """torch's TransformerEncoderLayer of one head, its tokens averaged."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1, 4)
        q, k, v = jnp.split(nn.Dense(12, name="qkv")(x), 3, -1)
        weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / 2)
        x = nn.LayerNorm(epsilon=1e-5)(x + nn.Dense(4)(weights @ v))
        y = nn.Dense(4)(nn.relu(nn.Dense(4)(x)))
        return nn.LayerNorm(epsilon=1e-5)(x + y).mean(1)


def test_attention_with_one_array_for_queries_keys_and_values():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(4, 1, 4, batch_first=True).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    images = RNG.random((5, 2, 3, 4), np.float32)
    expected = layer(torch.tensor(images.reshape(5, 6, 4))).mean(1).detach().numpy()
    state = layer.state_dict()
    names = {"self_attn.in_proj_weight": "qkv/kernel", "self_attn.in_proj_bias": "qkv/bias"}
    with pytest.raises(ValueError, match=r"self_attn\.out_proj\.weight \(4, 4\)"):
        from_torch_arrays(Encoder(), state, image_shape=(2, 3, 4), names=names)
    names["self_attn.out_proj"] = "Dense_0"
    with pytest.raises(ValueError, match=r"Dense_2/kernel .4, 4. *\| linear1\.weight"):
        # Dense_1 is made before Dense_2, but called after it
        from_torch_arrays(Encoder(), state, image_shape=(2, 3, 4), names=names)
    names |= {"linear1": "Dense_2", "linear2": "Dense_1"}
    model = from_torch_arrays(Encoder(), state, image_shape=(2, 3, 4), names=names)
    np.testing.assert_allclose(model(images), expected, atol=1e-4)


def test_own_files_of_many_layers_of_one_shape(tmp_path):
    layers = dense([f"fc{i}" for i in range(1, 12)], width=10)
    params = {name: {"kernel": weight.T, "bias": bias} for name, (weight, bias) in layers.items()}
    settings = {"widths": [10] * 10, "activation": "tanh"}
    listed = {"params": dict(sorted(params.items(), reverse=True))}
    save_weights(tmp_path / "fc.safetensors", "FC", settings, listed, image_shape=SHAPE)
    model, _ = load_weights(tmp_path / "fc.safetensors")
    np.testing.assert_allclose(
        model(IMAGES), logits(layers.values(), IMAGES.reshape(20, -1)), atol=1e-5
    )


def test_nnx_lists_of_more_than_ten_layers():
    class Listed(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.layers = nnx.List([nnx.Linear(12, 12, rngs=rngs) for _ in range(11)])

        def __call__(self, x):
            x = x.reshape(len(x), -1)
            for number, layer in enumerate(self.layers):
                x = layer(jnp.tanh(x) if number else x)
            return x

    module = Listed()
    layers = [[np.asarray(leaf).T for leaf in (part.kernel, part.bias)] for part in module.layers]
    expected = logits(layers, IMAGES.reshape(20, -1))
    np.testing.assert_allclose(from_nnx(module)(IMAGES), expected, atol=1e-5)


def test_onnx_initialisers_are_found_by_name():
    onnx = pytest.importorskip("onnx")
    layers = dense([str(i) for i in range(DEPTH)])
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["y0"])]
    for number, name in enumerate(layers):
        inputs = [f"y{number}", f"{name}.weight", f"{name}.bias"]
        nodes.append(onnx.helper.make_node("Gemm", inputs, [f"z{number}"], transB=1))
        last = number == DEPTH - 1
        nodes.append(
            onnx.helper.make_node(
                "Identity" if last else "Tanh",
                [f"z{number}"],
                ["out" if last else f"y{number + 1}"],
            )
        )
    value = lambda name, shape: onnx.helper.make_tensor_value_info(name, 1, shape)  # noqa: E731
    stored = [onnx.numpy_helper.from_array(a, n) for n, a in sorted(state_dict(layers).items())]
    graph = onnx.helper.make_graph(
        nodes, "net", [value("x", ["N", 3, 2, 2])], [value("out", ["N", 8])], stored
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = ja.from_onnx(onnx.helper.make_model(graph, opset_imports=opset).SerializeToString())
    np.testing.assert_allclose(model(IMAGES), logits(layers.values(), flat(IMAGES)), atol=1e-5)
