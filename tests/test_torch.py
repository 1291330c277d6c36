"""PyTorch networks against torch itself: logits, gradients, what is refused, and the drivers."""

import dataclasses
import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.cpu.rewrite import rewrite_for_cpu

REASON = "torch is an extra: pip install 'jaxadv[torch]'"
torch = pytest.importorskip("torch", reason=REASON)
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RANDOM = np.random.default_rng(0)
SHAPE = (8, 8, 3)
IMAGES = RANDOM.random((5, *SHAPE), np.float32)


class Function(nn.Module):
    """A network of a function of images [N, C, H, W], with a dense layer behind it."""

    def __init__(self, function, features: int) -> None:
        super().__init__()
        self.function, self.head = function, nn.Linear(features, 4)

    def forward(self, x):
        return self.head(self.function(x).flatten(1))


class Squeezed(nn.Module):
    """No axes of size 1: of a single image not even that of the batch."""

    def forward(self, x):
        return x.squeeze()


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


def layers(*modules, features):
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(features, 4))


class Residual(nn.Module):
    """Pre-activation, a strided shortcut without weights, squeeze and excitation, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, 2, 1)
        self.squeeze, self.head = nn.Conv2d(6, 6, 1), nn.Linear(12, 4)

    def forward(self, x):
        y = self.conv(F.relu(self.norm(x)))
        y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        y = torch.cat([F.silu(y + short), F.max_pool2d(F.hardswish(y), 3, 1, 1)], 1)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Attention(nn.Module):
    """A vision transformer of one block, with a class token and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.block(x))[:, 0])


class Windows(nn.Module):
    """Shifted windows with a mask and relative positions, as in Swin transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("index", torch.arange(16).roll(3) % 7)
        self.table, self.query = nn.Parameter(torch.randn(7)), nn.Linear(3, 9)
        self.head = nn.Linear(192, 4)

    def forward(self, x):
        x = torch.roll(x.permute(0, 2, 3, 1), (-2, -2), (1, 2))
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.query(x).chunk(3, -1)
        mask = torch.zeros(16, 16).masked_fill(torch.arange(16)[:, None] > torch.arange(16), -9.0)
        scores = q @ k.transpose(-2, -1) + self.table[self.index] + mask
        x = (scores.softmax(-1) @ v).view(n, -1)
        return self.head(F.normalize(x, dim=1))


class Weights(nn.Module):
    """Weights that are computed: a standardised kernel, and a shared one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.gain, self.head = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 4)
        self.again = self.head

    def forward(self, x):
        weight = self.conv.weight
        std, mean = torch.std_mean(weight, (1, 2, 3), keepdim=True)
        x = F.conv2d(x, self.gain * (weight - mean) / std).amax((2, 3))
        return self.again(F.leaky_relu(self.head(x), 0.1))


NETWORKS = {
    "dense": lambda: layers(nn.Flatten(), nn.Linear(192, 8), nn.Softplus(), features=8),
    "convolutions": lambda: layers(
        nn.Conv2d(3, 4, 3, padding="same", dilation=2, padding_mode="reflect"),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.Conv2d(4, 8, 3, 2, 1, groups=2),
        nn.ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1, groups=2),
        nn.Hardtanh(),
        features=256,
    ),
    "pools": lambda: layers(
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.ReplicationPad2d(3),
        nn.MaxPool2d(2, dilation=2, stride=1),
        nn.AdaptiveAvgPool2d(4),
        nn.AdaptiveMaxPool2d((3, 2)),
        features=18,
    ),
    "norms": lambda: layers(
        nn.Conv2d(3, 8, 1),
        nn.GroupNorm(2, 8),
        nn.PReLU(8),
        nn.InstanceNorm2d(8, affine=True),
        nn.LayerNorm((8, 8)),
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        features=512,
    ),
    "resizes": lambda: layers(
        nn.Upsample(scale_factor=1.5, mode="bilinear"),
        nn.Upsample((5, 7), mode="nearest"),
        nn.Upsample((9, 6), mode="bicubic"),
        nn.Upsample((4, 4), mode="bilinear", align_corners=True),
        nn.PixelShuffle(1),
        features=48,
    ),
    "activations": lambda: layers(
        nn.ELU(),
        nn.SELU(),
        nn.Mish(),
        nn.Hardsigmoid(),
        nn.LogSigmoid(),
        nn.Tanhshrink(),
        nn.Softsign(),
        nn.CELU(0.5),
        nn.GELU("tanh"),
        nn.ReLU6(),
        features=192,
    ),
    "residual": Residual,
    "attention": Attention,
    "windows": Windows,
    "weights": Weights,
    "selections": lambda: Function(
        lambda x: torch.cat(
            [
                x.flatten(1).topk(5).values,
                x.max(1).values.flatten(1).sort(1, descending=True).values[:, :4],
                x.unbind(1)[1].flip(2)[:, 2:4, -1],
                torch.gather(x.flatten(1), 1, x.flatten(1).argsort(1)[:, :3]),
                x[:, :, torch.tensor([0, 2]), torch.tensor([1, 3])].flatten(1),
                torch.where(x > 0.5, x, -x).sum((1, 2)),
            ],
            1,
        ),
        28,
    ),
    "arithmetic": lambda: Function(
        lambda x: (
            (x.pow(2) / (x + 1).sqrt() - x.clamp(0.2, 0.8).log1p() + torch.rsqrt(x + 2))
            * torch.lerp(x, 1 - x, 0.3)
            + x.norm(dim=1, keepdim=True)
            + x.var((2, 3), keepdim=True)
            + torch.logsumexp(x, 1, keepdim=True)
            + torch.einsum("nchw,nchv->nchw", x, x).cumsum(-1)
            + torch.remainder(x * 7, 2.0)
        ),
        192,
    ),
    "one image": lambda: Function(lambda x: x.reshape(1, 192) @ torch.ones(192, 3), 3),
    "unfold": lambda: Function(lambda x: F.unfold(x, 3, stride=2).mean(2), 27),
}


def randomised(module):
    """Evaluation mode, with random statistics in batch normalisation."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def truth(module, images, labels):
    """Logits, and gradients of the cross-entropy, by torch; each image alone."""
    x = torch.tensor(images.transpose(0, 3, 1, 2)).requires_grad_()
    logits = torch.cat([module(image[None]) for image in x])
    F.cross_entropy(logits, torch.tensor(labels), reduction="sum").backward()
    return logits.detach().numpy(), x.grad.numpy().transpose(0, 2, 3, 1)


def compare(module, model, images):
    labels = np.arange(len(images)) % 4

    @jax.jit
    def ours(model, images):
        def loss(images):
            logits = model(images)
            return -jax.nn.log_softmax(logits)[jnp.arange(len(images)), labels].sum(), logits

        return jax.grad(rewrite_for_cpu(loss), has_aux=True)(images)

    gradient, logits = ours(model, images)
    for given, wanted in zip((logits, gradient), truth(module, images, labels), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_those_of_torch(name):
    torch.manual_seed(0)
    module = randomised(NETWORKS[name]())
    model = ja.from_torch(module, SHAPE)
    assert model.apply.difference < 1e-4
    # len(x) of a batch makes its size a constant of the export.
    assert model.apply.program.batch == (1 if name in ("attention", "one image") else None)
    compare(module, model, IMAGES)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet10t", 32, {}),
        ("vit_tiny_patch16_224", 32, {"img_size": 32, "patch_size": 8, "depth": 1}),
        ("convnext_atto", 32, {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
        ("mobilenetv3_small_050", 32, {}),
    ],
)
def test_networks_of_timm(name, size, options):
    timm = pytest.importorskip("timm", reason="timm is among the peers")
    torch.manual_seed(0)
    module = randomised(timm.create_model(name, num_classes=4, **options))
    model = ja.from_torch(module, (size, size, 3))
    compare(module, model, RANDOM.random((2, size, size, 3), np.float32))


def test_gradients_stop_where_torch_stops_them():
    def steps(x):
        with torch.no_grad():
            scale = x.mean((1, 2, 3), keepdim=True)
        return scale * (x + ((4 * x).round() / 4 - x).detach())

    torch.manual_seed(0)
    module = Function(steps, 192).eval()
    compare(module, ja.from_torch(module, SHAPE), IMAGES)


class Switch(nn.Module):
    """Control flow by a number of the network's own."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))
        self.head = nn.Linear(192, 4)

    def forward(self, x):
        if self.threshold > 0:
            x = torch.where(x < self.threshold, torch.zeros_like(x), x)
        return self.head(x.flatten(1))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_control_flow_may_depend_on_numbers_of_the_network(threshold):
    module = Switch(threshold).eval()
    compare(module, ja.from_torch(module, SHAPE), IMAGES)
    assert list(module.state_dict()) == ["threshold", "head.weight", "head.bias"]  # unchanged


class TwoImages(nn.Module):
    """A small vision transformer whose reshapes, as older exporters write them, name the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.query = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).reshape(2, 8, 4).transpose(1, 2)
        q, k, v = self.query(x).reshape(2, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = ((q @ k.transpose(-2, -1) / 2).softmax(-1) @ v).transpose(1, 2).reshape(2, 4, 8)
        return self.head((torch.remainder(x * 9, 2.0) + torch.fmod(x * 9, 2.0)).mean(1))


def test_onnx_files_of_torchs_older_exporter_for_two_images():
    """They hold the batch in reshapes, and Mod for remainders."""
    onnx = pytest.importorskip("onnx", reason="onnx is an extra")
    torch.manual_seed(0)
    module, file = TwoImages().eval(), io.BytesIO()
    two = torch.tensor(IMAGES[:2].transpose(0, 3, 1, 2))
    try:
        torch.onnx.export(module, (two,), file, dynamo=False)
    except (TypeError, ImportError, RuntimeError) as error:
        pytest.skip(f"this torch has no older exporter: {error}")
    nodes = onnx.load_from_string(file.getvalue()).graph.node
    assert {"Mod", "Reshape"} <= {node.op_type for node in nodes}
    expected = module(two).detach().numpy()
    np.testing.assert_allclose(ja.from_onnx(file.getvalue())(IMAGES)[:2], expected, atol=1e-5)


# --- what the model is ---


def small():
    torch.manual_seed(1)
    return randomised(layers(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), features=144))


def test_weights_are_named_as_in_the_module_and_are_copies():
    module = small()
    model = ja.from_torch(module, SHAPE)
    state = {name: t.numpy().copy() for name, t in module.state_dict().items()}
    del state["1.num_batches_tracked"]
    logits = model(IMAGES)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.mul_(2)
    assert model.params.keys() == state.keys()
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, state[name])
    np.testing.assert_array_equal(model(IMAGES), logits)


def test_equal_architectures_share_one_program():
    models = [ja.from_torch(small(), SHAPE) for _ in range(2)]
    assert jax.tree.structure(models[0]) == jax.tree.structure(models[1])
    other = ja.from_torch(randomised(layers(nn.Conv2d(3, 4, 5), features=64)), SHAPE)
    assert jax.tree.structure(models[0]) != jax.tree.structure(other)


@pytest.mark.parametrize("batch", [None, 1], ids=["any batch", "one image"])
def test_exported_programs_and_their_files(tmp_path, batch):
    module = small()
    axes = None if batch else ({0: torch.export.Dim("batch")},)
    example = torch.zeros(batch or 2, 3, 8, 8)
    program = torch.export.export(module, (example,), dynamic_shapes=axes)
    torch.export.save(program, tmp_path / "net.pt2")
    expected = ja.from_torch(module, SHAPE)(IMAGES)
    for source in (program, tmp_path / "net.pt2", str(tmp_path / "net.pt2")):
        model = ja.from_torch(source)
        assert model.apply.program.batch == batch
        np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-5, atol=1e-6)


class Several(nn.Module):
    """Returns logits and features in a container of some kind."""

    def __init__(self, container) -> None:
        super().__init__()
        self.network, self.container = small(), container

    def forward(self, x):
        return self.container(self.network(x), x.mean((2, 3)))


@pytest.mark.parametrize(
    ("container", "output"),
    [
        (lambda a, b: (b, a), 1),
        (lambda a, b: {"features": b, "logits": a}, "logits"),
        (lambda a, b: (b, {"deep": [a]})[1]["deep"], 0),
    ],
)
def test_one_of_several_outputs(container, output):
    module = Several(container).eval()
    model = ja.from_torch(module, SHAPE, output=output)
    np.testing.assert_allclose(model(IMAGES), ja.from_torch(small(), SHAPE)(IMAGES), atol=1e-6)


def test_a_dataclass_of_outputs():
    @dataclasses.dataclass
    class Answer:
        logits: torch.Tensor
        features: torch.Tensor

    torch.export.register_dataclass(Answer, serialized_type_name="jaxadv.tests.Answer")
    model = ja.from_torch(Several(Answer).eval(), SHAPE, output="logits")
    np.testing.assert_allclose(model(IMAGES), ja.from_torch(small(), SHAPE)(IMAGES), atol=1e-6)


class LastStep(nn.Module):
    """A network of series [N, T, C]: attention, and the logits of the last step."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0][:, -1])


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (
            lambda: nn.Sequential(nn.BatchNorm1d(7), nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 4)),
            (7,),
        ),
        (LastStep, (11, 6)),
        (
            lambda: layers(nn.Conv1d(2, 5, 3, 2, 1), nn.ReLU(), nn.MaxPool1d(2), features=15),
            (2, 12),
        ),
    ],
)
def test_rows_and_series_are_taken_as_they_are(build, shape):
    torch.manual_seed(0)
    module, inputs = build().eval(), RANDOM.standard_normal((5, *shape), np.float32)
    model = ja.from_torch(module, shape, bounds=(-np.inf, np.inf))
    np.testing.assert_allclose(model(inputs), module(torch.tensor(inputs)).detach(), atol=1e-5)
    labels = np.arange(5) % 4

    def loss(x):
        return -jax.nn.log_softmax(model(x))[jnp.arange(5), labels].sum()

    x = torch.tensor(inputs, requires_grad=True)
    F.cross_entropy(module(x), torch.tensor(labels), reduction="sum").backward()
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(inputs)), x.grad, atol=1e-5)
    exported = torch.export.export(module, (torch.zeros(1, *shape),))
    again = ja.from_torch(exported, bounds=(0.0, np.inf))
    np.testing.assert_allclose(again(inputs), model(inputs), atol=1e-5)


@pytest.mark.parametrize("end", [nn.Identity(), nn.Flatten(0), Squeezed()])
def test_a_binary_classifier_may_return_one_logit(end):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), end).eval()
    model = ja.from_torch(module, SHAPE)
    single = module(torch.tensor(IMAGES.transpose(0, 3, 1, 2).copy())).detach().reshape(-1)
    np.testing.assert_allclose(model(IMAGES), np.stack([0 * single, single], 1), atol=1e-5)


def test_a_network_that_asks_for_gradients_is_converted_as_an_attack_sees_it():
    def hard(x):  # robustbench's HardMaxMap does so
        return x if x.grad_fn is not None else x * torch.inf

    module = nn.Sequential(*layers(nn.Flatten(), features=192), Applied(hard)).eval()
    assert ja.from_torch(module, SHAPE).apply.difference < 1e-5


def test_assertions_that_nothing_is_nan_hold():
    def checked(x):
        y = F.softmax(x.flatten(1), 1)
        assert not y.isnan().any()
        return y

    torch.manual_seed(0)
    module = Function(checked, 192).eval()
    compare(module, ja.from_torch(module, SHAPE), IMAGES)


def test_logits_that_jump_where_float32_rounds_are_told_from_wrong_ones():
    class Steep(nn.Module):
        """The rounding of a sum of 192 products, enlarged: another order gives another value."""

        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(192, 4)

        def forward(self, x):
            return torch.sin(2e6 * self.dense(x.flatten(1)))

    torch.manual_seed(0)
    module = Steep().eval()
    with pytest.warns(UserWarning, match="jump where float32 rounds.*agree in float64"):
        model = ja.from_torch(module, SHAPE)
    assert model.apply.difference > 1e-3


def test_a_network_in_double_precision_is_computed_in_float32():
    model = ja.from_torch(layers(nn.Flatten(), features=192).eval().double(), SHAPE)
    assert {array.dtype for array in model.params.values()} == {np.dtype(np.float32)}
    assert model(IMAGES).dtype == np.float32


def test_a_network_whose_answers_depend_on_the_batch_answers_for_each_image_alone():
    torch.manual_seed(0)
    module = Function(lambda x: x - x.mean((0, 2, 3), keepdim=True), 192).eval()
    model = ja.from_torch(module, SHAPE)
    assert model.apply.program.batch == 1
    compare(module, model, IMAGES)


def test_drivers():
    model = ja.from_torch(small(), SHAPE)
    labels = np.asarray(model(IMAGES).argmax(1))
    attack = ja.PGD(steps=4)
    result = ja.run(attack, model, IMAGES, ja.Untargeted(labels), 0.2, key=jax.random.key(0))
    assert result.success.any()
    moved = np.asarray(model(result.images).argmax(1)) != labels
    assert (moved == result.success).all()
    report = ja.evaluate(
        model, IMAGES, labels, epsilons=[0.2], attacks={"pgd": attack}, key=jax.random.key(0)
    )
    assert report.robust_accuracy[0] <= 1 - result.success.mean() + 1e-6


# --- what is refused ---


def refused(module, message, shape=SHAPE, **options):
    with pytest.raises(ValueError, match=message):
        ja.from_torch(module, shape, **options)


class Branch(nn.Module):
    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_training_mode():
    refused(small().train(), r"module is in training mode: call module.eval\(\)")
    module = small()
    module[1].train()
    refused(module, "module changes .*'1.running_mean'.* when called: call module.eval")
    module = layers(nn.Dropout(0.5), features=192).eval()
    module[0].train()
    refused(module, r"aten.*dropout.* in 0 \(Dropout\)|draws at random")


def test_random_networks():
    refused(Function(lambda x: x + torch.rand_like(x), 192).eval(), "draws at random.*rand_like")


def test_control_flow_by_pixels():
    message = r"torch.export cannot export Sequential: .*data-dependent.*control flow must not"
    refused(nn.Sequential(Branch()).eval(), message)


def test_unknown_operators_are_all_named_with_their_modules():
    module = nn.Sequential(
        Function(lambda x: torch.fft.fft2(x).abs(), 192),
        Function(lambda x: torch.special.i0(x[:, :, None, None]), 4),
    ).eval()
    message = r"not supported: _fft_\w+.default in 0 \(Function\); i0.default in 1 \(Function\)"
    refused(module, message)


def test_images_of_another_shape():
    refused(small(), r"fails on an image \[1, 1, 8, 8\] \(image_shape=\(8, 8, 1\)", (8, 8, 1))
    refused(small(), r"fails on an input \[1, 8, 8\].*for an image is \[H, W, C\]", (8, 8))
    refused(small(), r"image_shape=None: pass \[H, W, C\]", None)
    refused(small(), r"image_shape=\(8, 8, 1, 3\): pass \[H, W, C\]", (8, 8, 1, 3))
    model = ja.from_torch(small(), SHAPE)
    with pytest.raises(ValueError, match=r"converted for images \[N, 8, 8, 3\]"):
        model(IMAGES[:, :4])


def test_half_precision():
    refused(small().bfloat16(), r"computes in torch.bfloat16: pass module.float\(\)")


def test_outputs_that_are_no_logits():
    both = Several(lambda a, b: (a, b)).eval()
    refused(both, "several tensors, a tuple of 2: pass output=")
    refused(both, "output='logits': module returns a tuple of 2", output="logits")
    refused(nn.ReLU().eval(), r"array \(3, 3, 8, 8\) for 3 images, but logits are")


def test_programs_that_do_not_fit(tmp_path):
    program = torch.export.export(small(), (torch.zeros(4, 3, 8, 8),))
    refused(program, "exported for a batch of 4", None)
    program = torch.export.export(small(), (torch.zeros(1, 3, 8, 8),))
    refused(program, r"image_shape=\(4, 4, 3\): .* = \[8, 8, 3\]", (4, 4, 3))
    torch.save(small().state_dict(), tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt", "no .pt2 file.*pickles")
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    refused(tmp_path / "junk.pt2", "damaged or of another torch")
    with pytest.raises(FileNotFoundError, match="absent.pt2"):
        ja.from_torch(tmp_path / "absent.pt2")
    refused(small, "module is function: pass a torch.nn.Module")
    traced = torch.jit.trace(small(), torch.zeros(1, 3, 8, 8))
    refused(traced, "module is TopLevelTracedModule.*pass the module that was traced")


def test_other_logits_in_jax_are_refused(monkeypatch):
    from jaxadv.models.pytorch import operators

    wrong = operators.OPERATORS["relu"]._replace(function=jnp.abs)
    monkeypatch.setitem(operators.OPERATORS, "relu", wrong)
    refused(small(), "module has other logits in JAX: they differ by")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"jaxadv\[torch\]"):
        ja.from_torch("net.pt2")
