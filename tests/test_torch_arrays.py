"""Torch's arrays on Flax definitions: torch's logits, here on disk or where torch is installed."""

import os
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxadv.data import load_data
from jaxadv.models import from_torch_arrays, get_definition

SHARED = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared")) / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "models").is_dir(), reason=f"no {SHARED}: set JAXADV_SHARED"
)
RNG = np.random.default_rng(0)
call = jax.jit(lambda model, images: model(images))


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def published(name):
    """Torch's arrays, images and logits of a network; where it normalises, so do the images."""
    folder = SHARED / "models" / name
    arrays, expected = np.load(folder / "weights.npz"), np.load(folder / "reference_logits.npz")
    if "mnist" in name:
        images = load_data("mnist:test[:16]", data_dir=SHARED / "mnist").images
    else:
        images = load_data(SHARED / "cifar10/cifar10_test.npz", count=16).images
        images = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return dict(arrays), images.astype(np.float32), expected["logits"]


def anonymous(arrays):
    """Numbers for the layers' names, in the same order, listed alphabetically."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
    new = {layer: f"net.{number}.inner" for number, layer in enumerate(layers)}
    parts = {name: name.rpartition(".") for name in arrays}
    state = {f"{new[layer]}.{kind}": arrays[name] for name, (layer, _, kind) in parts.items()}
    return dict(sorted(state.items()))


@needs_shared
@pytest.mark.parametrize(
    ("name", "definition", "atol"),
    [("mnist_cnn_a_adv", "CNNA", 1e-4), ("cifar10_resnet32_linf8", "ResNet32", 1e-3)],
)
def test_numbered_layers_are_paired_by_number_and_shape(name, definition, atol):
    arrays, images, expected = published(name)
    model = from_torch_arrays(definition, anonymous(arrays), image_shape=images.shape[1:])
    np.testing.assert_allclose(call(model, images), expected, atol=atol)


class ChannelsFirst(nn.Module):
    """CNN-A that turns its map over before it flattens it, as ports of torch code do."""

    @nn.compact
    def __call__(self, images):
        x = nn.relu(nn.Conv(16, (4, 4), 2, padding=1)(images))
        x = nn.relu(nn.Conv(32, (4, 4), 2, padding=1)(x))
        x = nn.relu(x.transpose(0, 3, 1, 2).reshape(len(x), -1))
        return nn.Dense(10, name="out")(nn.relu(nn.Dense(100, name="hidden")(x)))


@needs_shared
def test_a_map_flattened_in_torchs_order_is_not_permuted():
    arrays, images, expected = published("mnist_cnn_a_adv")
    names = {"0": "Conv_0", "2": "Conv_1", "5": "hidden", "7": "out"}
    model = from_torch_arrays(ChannelsFirst(), arrays, image_shape=(28, 28, 1), names=names)
    np.testing.assert_allclose(model(images), expected, atol=1e-4)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = nn.max_pool(images, (2, 2), (2, 2)).reshape(len(images), -1)
        return nn.Dense(4, name="fc")(nn.BatchNorm(use_running_average=True, name="bn")(x))


def normed_arrays():
    return {
        "bn.weight": draw(18),
        "bn.bias": draw(18),
        "bn.running_mean": draw(18),
        "bn.running_var": draw(18) ** 2 + 0.5,
        "bn.num_batches_tracked": np.array(7),
        "fc.weight": draw(4, 18),
        "fc.bias": draw(4),
    }


def normed_logits(arrays, images):
    """In torch's order, images of 4 x 6 x 3: pooled, flattened, normalised, multiplied."""
    pooled = images.reshape(-1, 2, 2, 3, 2, 3).max((2, 4))
    flat = pooled.transpose(0, 3, 1, 2).reshape(len(images), -1)
    scaled = (flat - arrays["bn.running_mean"]) / np.sqrt(arrays["bn.running_var"] + 1e-5)
    normed = scaled * arrays["bn.weight"] + arrays["bn.bias"]
    return normed @ arrays["fc.weight"].T + arrays["fc.bias"]


@pytest.mark.parametrize("form", ["dict", "npz", "safetensors", "wrapped"])
def test_flattened_maps_that_are_not_square(tmp_path, form):
    arrays, images = normed_arrays(), RNG.random((5, 4, 6, 3), np.float32)
    given = arrays
    if form == "npz":
        given = tmp_path / "net.npz"
        np.savez(given, **arrays)
    elif form == "safetensors":
        given = tmp_path / "net.safetensors"
        safetensors.numpy.save_file(arrays, given, {"format": "pt"})
    elif form == "wrapped":
        given = {f"module.{name}": array for name, array in arrays.items()}
    model = from_torch_arrays(Normed(), given, image_shape=(4, 6, 3))
    np.testing.assert_allclose(model(images), normed_logits(arrays, images), atol=1e-4)


def test_colour_images_into_a_dense_layer():
    arrays = {
        "a.weight": draw(7, 30),
        "a.bias": draw(7),
        "b.weight": draw(10, 7),
        "b.bias": draw(10),
    }
    images = RNG.random((3, 2, 5, 3), np.float32)
    hidden = images.transpose(0, 3, 1, 2).reshape(3, -1) @ arrays["a.weight"].T + arrays["a.bias"]
    expected = hidden.clip(0) @ arrays["b.weight"].T + arrays["b.bias"]
    module = get_definition("FC")(widths=(7,))
    model = from_torch_arrays(module, arrays, image_shape=(2, 5, 3))
    np.testing.assert_allclose(model(images), expected, atol=1e-4)


def test_one_error_lists_all_that_does_not_fit():
    arrays = normed_arrays()
    arrays["extra.weight"], arrays["fc.weight"] = draw(3, 3), draw(4, 17)
    del arrays["bn.bias"]
    with pytest.raises(ValueError, match="Normed") as caught:
        from_torch_arrays(Normed(), arrays, image_shape=(4, 6, 3))
    said = str(caught.value)
    for part in ("extra.weight (3, 3)", "fc.weight (4, 17)", "params/bn/bias", "(4, 18)"):
        assert part in said
    with pytest.raises(ValueError, match=r"fc\.weight \(4, 17\): params/fc/kernel takes \(4, 18\)"):
        from_torch_arrays(Normed(), arrays, image_shape=(4, 6, 3), names={"fc": "fc", "bn": "bn"})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"fc": "head"}, "there is no layer 'head'"),
        ({"head": "fc"}, "there is no torch layer 'head'"),
        ({"fc": "bn"}, "fc.weight .4, 18.: params/bn/scale takes .18,."),
    ],
)
def test_wrong_names(names, message):
    with pytest.raises(ValueError, match=message):
        from_torch_arrays(Normed(), normed_arrays(), image_shape=(4, 6, 3), names=names)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_other_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        from_torch_arrays("FC", path, image_shape=(2, 2, 1))
    path.write_bytes(b"PK\3\4 nothing of the kind")
    with pytest.raises(ValueError, match="pickles are not read" if suffix == ".pt" else "damaged"):
        from_torch_arrays("FC", path, image_shape=(2, 2, 1))


@pytest.mark.parametrize(
    ("package", "build", "module", "shape", "names"),
    [
        ("torchvision", lambda p: p.models.resnet50(), "ResNet50", (64, 96, 3), {}),
        ("torchvision", lambda p: p.models.alexnet(), "AlexNet", (224, 224, 3), {}),
        (
            "timm",
            lambda p: p.create_model("vit_small_patch16_224", img_size=(32, 48)),
            "ViT",
            (32, 48, 3),
            {},
        ),
        (
            "pytorchcv.model_provider",
            lambda p: p.get_model("wrn16_10_cifar10"),
            get_definition("WideResNet")(depth=16),
            (32, 32, 3),
            {"features.post_activ.bn": "bn1"},
        ),
    ],
)
def test_definitions_equal_torchs(package, build, module, shape, names):
    torch = pytest.importorskip("torch")
    network = build(pytest.importorskip(package)).eval()
    for name, array in network.state_dict().items():
        if array.ndim == 1 and "bias" not in name and "mean" not in name:
            array.uniform_(0.5, 1.5)  # scales and variances
        elif array.ndim == 1:
            array.normal_(0, 0.1)
    model = from_torch_arrays(module, network.state_dict(), image_shape=shape, names=names)
    images = RNG.random((2, *shape), np.float32)
    with torch.no_grad():
        expected = network(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    scale = np.abs(expected).max()
    np.testing.assert_allclose(call(model, images) / scale, expected / scale, atol=1e-5)
