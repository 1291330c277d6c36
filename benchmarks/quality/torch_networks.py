"""`python -m benchmarks.quality.torch_networks`: which PyTorch networks are converted?

The architectures of RobustBench's model zoo and of timm, with random weights and random statistics
of their batch normalisation; deep ones with fewer layers, wide ones with fewer channels. For each:
seconds to convert it, and the largest difference from torch: in the logits of three images,
relative to the largest logit, in float32 and in float64, and in the gradient of their
cross-entropy, relative to its largest entry. Or the reason why it is not converted. Gradients are
compared in float64 on both sides: in float32 they jump where rounding takes a unit to the other
side of zero. So do the logits of the MeanSparse networks, at the thresholds of their layers; where
only float32 differs, the last column says so.

It needs torch, torchvision and timm (`pip install ".[peers]"`), and for the zoo the files of
robustbench (`pip install --no-deps robustbench torchdiffeq geotorch`).
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

import jaxadv as ja
from benchmarks.common import CONSOLE, arguments, show
from jaxadv.cpu.compiler import brief_options

ZOO = "robustbench.model_zoo"
LOGITS, GRADIENTS = 1e-4, 1e-3  # what counts as equal
ROUNDING = 1e-12  # in float64
IMAGES = 3
ROUNDED = "differs in float32 alone"


@dataclasses.dataclass
class Network:
    """How to build a network, the side of its square images, and where its logits are."""

    build: Callable[[], nn.Module]
    size: int = 32
    output: int | None = None


def zoo(
    module: str, name: str, *arguments: Any, size: int = 32, output: int | None = None, **options
):
    """A network of the zoo: a class or function of one of its modules, and its arguments."""

    def build() -> nn.Module:
        return getattr(of_zoo(module), name)(*arguments, **options)

    return Network(build, size, output)


@functools.cache
def bare_packages() -> None:
    """Let modules of the zoo be imported without what its packages import first."""
    found = importlib.util.find_spec("robustbench")
    if found is None:
        raise ImportError("robustbench is not installed")
    for name in ("robustbench", ZOO, f"{ZOO}.architectures"):
        package = types.ModuleType(name)
        folder = "/".join(name.split(".")[1:])
        package.__path__ = [f"{place}/{folder}" for place in found.submodule_search_locations or ()]
        sys.modules[name] = package


def of_zoo(module: str) -> Any:
    """A module of the zoo's architectures, or one that lists them ("cifar10")."""
    bare_packages()
    inner = "" if module in ("cifar10", "cifar100", "imagenet") else "architectures."
    return importlib.import_module(f"{ZOO}.{inner}{module}")


def blocks(module: str, block: str, name: str, *numbers: Any, **options: Any) -> Network:
    """A residual network of blocks of one class."""

    def build() -> nn.Module:
        source = of_zoo(module)
        return getattr(source, name)(getattr(source, block), *numbers, **options)

    return Network(build)


def mean_sparse_swin() -> nn.Module:
    return of_zoo("Meansparse_swin_L").SwinTransformer(
        img_size=56, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=10
    )


def mean_sparse_convnext() -> nn.Module:
    """A ConvNeXt whose blocks get the layers that `get_sparse_model` puts into a large one."""
    source, timm = of_zoo("sparsified_model"), importlib.import_module("timm")
    model = timm.create_model("convnext_large", depths=(1, 1, 1, 1), num_classes=10)
    source.add_custom_layer_imagenet(model, source.MeanSparse_imagenet)
    return model


def robust_arch(module: str) -> nn.Module:
    return of_zoo(module).NormalizedWideResNet(
        (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 16, [2, 2, 1], [16, 32, 64], [1, 1, 1],
        nn.SiLU, 0.25, nn.ReLU, 2,
    )  # fmt: skip


def robust_arch_regnet(module: str) -> nn.Module:
    source = of_zoo(module)
    return source.NormalizedConfigurableModel(
        mean=[0.5] * 3, std=[0.2] * 3, stage_widths=[32, 64, 96, 128], kernel=3,
        strides=[2, 2, 2, 2], dilation=1,
        norm_layer=[nn.Identity, nn.BatchNorm2d, nn.BatchNorm2d], activation_layer=[nn.SiLU] * 3,
        group_widths=[8, 16, 24, 32], bottleneck_multipliers=[1] * 4,
        downsample_norm=nn.BatchNorm2d, depths=[1, 2, 1, 1], dense_ratio=None,
        stem_type=source.Stem, stem_width=16, stem_kernel=7, stem_downsample_factor=2,
        stem_patch_size=None, block_constructor=source.BottleneckBlock,
        ConvBlock=source.Conv2dNormActivation, se_ratio=0.25, se_activation=nn.ReLU,
    )  # fmt: skip


def composite() -> nn.Module:
    """The mixed classifier with a policy network; its robust half is shallow and narrow."""
    source = of_zoo("comp_model")
    whole = source.dm_rn.WideResNet

    def shallow(**options: Any) -> nn.Module:
        return whole(**{**options, "depth": 10, "width": 4})

    settings = {
        "std_model_type": "rn50", "rob_model_type": "wrn7016", "in_planes": (256, 64),
        "gamma": 1.75, "use_policy": True, "policy_graph": True, "pn_version": 4,
        "parallel": False, "num_classes": 10, "alpha_scale": 0.1, "alpha_bias": 0.8,
    }  # fmt: skip
    with mock.patch.object(source.dm_rn, "WideResNet", shallow):
        model = source.CompositeModel(settings)
    return source.CompositeModelWrapper(model, parallel=False)


def mixed() -> nn.Module:
    source, maps = of_zoo("mixing_net"), of_zoo("output_maps")
    halves = [of_zoo("wide_resnet").WideResNet(10, 10, 1) for _ in range(2)]
    settings = {
        "std_map": maps.HardMaxMap(), "rob_map": maps.LNClampPowerScaleMap(),
        "alpha": 0.5, "alpha_diffable": 0.5, "parallel": False,
    }  # fmt: skip
    return source.NonLinMixedClassifier(*halves, settings)


def mapped(name: str) -> Network:
    def build() -> nn.Module:
        maps = of_zoo("output_maps")
        model = of_zoo("wide_resnet").WideResNet(10, 10, 1)
        return maps.MappedModel(model, getattr(maps, name)())

    return Network(build)


def sodef() -> nn.Module:
    """The network with an ODE behind a wide one, which has fewer layers here."""
    source = of_zoo("sodef_layers")
    whole = source.DMWideResNet
    with mock.patch.object(source, "DMWideResNet", lambda **o: whole(**{**o, "depth": 10})):
        return source.rebuffi_sodef()


def normalised() -> nn.Module:
    import torchvision

    model = torchvision.models.resnet18(num_classes=10)
    return of_zoo("utils_architectures").normalize_model(model, (0.5,) * 3, (0.2,) * 3)


def registered(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return getattr(of_zoo(module), name)(pretrained=False, **options)

    return build


def shortened(network: Network, depth: int = 2) -> Network:
    """The network with the first blocks of its transformer alone."""

    def build() -> nn.Module:
        model = network.build()
        for module in list(model.modules()):
            blocks = getattr(module, "blocks", None)
            if isinstance(blocks, nn.ModuleList | nn.Sequential):
                module.blocks = blocks[:depth]
        return model

    return dataclasses.replace(network, build=build)


WIDE = {"num_classes": 10, "depth": 16, "width": 1}
SPARSE = {"num_classes": 10, "depth": 16, "width": 1, "activation_fn": nn.SiLU}
SMALL = {"depth": 16, "widen_factor": 1}

ROBUSTBENCH: dict[str, Network] = {
    "CARD_resnet.LRR_ResNet": zoo("CARD_resnet", "LRR_ResNet", width=16),
    "CARD_resnet.WidePreActResNet": zoo("CARD_resnet", "WidePreActResNet", widen_factor=1),
    "MIMIR_swin_transformer.SwinTransformer": zoo(
        "MIMIR_swin_transformer", "SwinTransformer", img_size=56, embed_dim=24, depths=[2, 2],
        num_heads=[2, 4], num_classes=10, size=56,
    ),
    "Meansparse_ra_wrn_70_16.NormalizedWideResNet": Network(
        functools.partial(robust_arch, "Meansparse_ra_wrn_70_16")
    ),
    "Meansparse_ra_wrn_70_16.NormalizedConfigurableModel": Network(
        functools.partial(robust_arch_regnet, "Meansparse_ra_wrn_70_16"), 64
    ),
    "Meansparse_swin_L.SwinTransformer": Network(mean_sparse_swin, 56),
    "Meansparse_wrn_70_16.DMWideResNet": zoo("Meansparse_wrn_70_16", "DMWideResNet", **SPARSE),
    "Meansparse_wrn_70_16.DMPreActResNet": zoo("Meansparse_wrn_70_16", "DMPreActResNet"),
    "Meansparse_wrn_94_16.MeanSparse_DMWideResNet": zoo(
        "Meansparse_wrn_94_16", "MeanSparse_DMWideResNet", **SPARSE
    ),
    "Meansparse_wrn_94_16.DMPreActResNet": zoo("Meansparse_wrn_94_16", "DMPreActResNet"),
    "alexnet.TimmAlexNet": zoo("alexnet", "TimmAlexNet", num_classes=10, size=64),
    "bit_rn.ResNetV2": zoo("bit_rn", "ResNetV2", [1, 1, 1, 1], 1, 10, size=64, output=0),
    "bit_rn_v2.ResNetV2": zoo("bit_rn_v2", "ResNetV2", [1, 1, 1, 1], 1, 10),
    "boosting_wide_resnet.BoostingWideResNet": zoo(
        "boosting_wide_resnet", "BoostingWideResNet", 16, 1
    ),
    "comp_model.CompositeModel": Network(composite),
    "convnext_v2.ConvNeXtV2": zoo(
        "convnext_v2", "ConvNeXtV2", num_classes=10, depths=[1, 1, 2, 1], dims=[16, 32, 64, 96],
        size=64,
    ),
    "convstem_models.ConvBlock1": zoo(
        "convstem_models", "get_convstem_models", "convnext_t_cvst", size=64
    ),
    "convstem_models.ConvBlock": shortened(
        zoo("convstem_models", "get_convstem_models", "vit_s_cvst", size=224)
    ),
    "deit.tian2022deeper_deit_s": shortened(
        Network(registered("deit", "tian2022deeper_deit_s_imagenet_corruptions"), 224)
    ),
    "dm_rn.WideResNet": zoo("dm_rn", "WideResNet", **WIDE, output=0),
    "dm_wide_resnet.DMWideResNet": zoo("dm_wide_resnet", "DMWideResNet", **WIDE),
    "dm_wide_resnet.DMPreActResNet": zoo("dm_wide_resnet", "DMPreActResNet"),
    "mixing_net.NonLinMixedClassifier": Network(mixed),
    "output_maps.HardMaxMap": mapped("HardMaxMap"),
    "output_maps.ScaleMap": mapped("ScaleMap"),
    "output_maps.LayerNormMap": mapped("LayerNormMap"),
    "output_maps.LNPowerScaleMap": mapped("LNPowerScaleMap"),
    "output_maps.LNClampPowerScaleMap": mapped("LNClampPowerScaleMap"),
    "paf_wide_resnet.PAF_WideResNet": Network(
        lambda: of_zoo("paf_wide_resnet").PAF_WideResNet(
            of_zoo("paf_wide_resnet").PSSiLU(), depth=16, widen_factor=1
        )
    ),
    "resnest.ResNest": blocks(
        "resnest", "Bottleneck", "ResNest", [1, 1, 1, 1], radix=2, groups=1, bottleneck_width=64,
        deep_stem=True, stem_width=16, avg_down=True, avd=True, avd_first=False,
    ),
    "resnet.ResNet, BasicBlock": blocks("resnet", "BasicBlock", "ResNet", [1, 1, 1, 1]),
    "resnet.ResNet, Bottleneck": blocks("resnet", "Bottleneck", "ResNet", [1, 1, 1, 1]),
    "resnet.ResNet, BottleneckChen2020": blocks(
        "resnet", "BottleneckChen2020AdversarialNet", "ResNet", [1, 1, 1, 1]
    ),
    "resnet.PreActResNet, PreActBlock": blocks(
        "resnet", "PreActBlock", "PreActResNet", [1, 1, 1, 1]
    ),
    "resnet.PreActResNet, PreActBlockV2": blocks(
        "resnet", "PreActBlockV2", "PreActResNet", [1, 1, 1, 1], bn_before_fc=True,
        out_shortcut=True,
    ),
    "resnext.CifarResNeXt": blocks("resnext", "ResNeXtBottleneck", "CifarResNeXt", 11, 4, 8, 10),
    "robust_resnet.PreActResNet": zoo(
        "robust_resnet", "PreActResNet", channel_configs=(16, 16, 32, 64),
        depth_configs=(1, 1, 1), activations=("SiLU",) * 3, pre_process=True,
    ),
    "robust_wide_resnet.RobustWideResNet": zoo(
        "robust_wide_resnet", "RobustWideResNet", channel_configs=[16, 16, 32, 64],
        depth_configs=[2, 2, 1],
    ),
    "robustarch_wide_resnet.NormalizedWideResNet": Network(
        functools.partial(robust_arch, "robustarch_wide_resnet")
    ),
    "robustarch_wide_resnet.NormalizedConfigurableModel": Network(
        functools.partial(robust_arch_regnet, "robustarch_wide_resnet"), 64
    ),
    "sodef_layers.rebuffi_sodef": Network(sodef),
    "sparsified_model.MeanSparse_imagenet": Network(mean_sparse_convnext, 64),
    "utils_architectures.ImageNormalizer": Network(normalised, 64),
    "wide_resnet.WideResNet": zoo("wide_resnet", "WideResNet", **SMALL),
    "xcit.debenedetti2022light_xcit_s12": shortened(
        Network(registered("xcit", "debenedetti2022light_xcit_s12_cifar10_linf", num_classes=10))
    ),
    "cifar10.Hendrycks2020AugMixResNeXtNet": zoo("cifar10", "Hendrycks2020AugMixResNeXtNet", 11),
    "cifar10.Ding2020MMANet": zoo("cifar10", "Ding2020MMANet", **SMALL),
    "cifar10.Diffenderfer2021CARD_Deck": zoo("cifar10", "Diffenderfer2021CARD_Deck", width=8),
    "cifar10.Wong2020FastNet": zoo("cifar10", "Wong2020FastNet"),
    "cifar10.Rice2020OverfittingNetL2": zoo("cifar10", "Rice2020OverfittingNetL2"),
}  # fmt: skip


def of_timm(name: str, size: int = 64, **options: Any) -> Network:
    def build() -> nn.Module:
        return importlib.import_module("timm").create_model(name, num_classes=10, **options)

    return Network(build, size)


def mixer() -> nn.Module:
    """A small mixer: the registered ones take no number of blocks."""
    source = importlib.import_module("timm.models.mlp_mixer")
    return source.MlpMixer(10, img_size=64, patch_size=16, num_blocks=2, embed_dim=64)


TIMM: dict[str, Network] = {
    "timm resnet": of_timm("resnet18"),
    "timm resnext": of_timm("resnext50_32x4d", layers=(1, 1, 1, 1)),
    "timm efficientnet": of_timm("efficientnet_b0"),
    "timm vit": of_timm("vit_tiny_patch16_224", img_size=64, depth=2),
    "timm deit": of_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=2),
    "timm swin": of_timm("swin_tiny_patch4_window7_224", 224, depths=(2, 2, 2, 2), embed_dim=24),
    "timm convnext": of_timm("convnext_atto"),
    "timm mobilenetv3": of_timm("mobilenetv3_small_100"),
    "timm regnet": of_timm("regnety_002"),
    "timm densenet": of_timm("densenet121", block_config=(2, 2, 2, 2)),
    "timm xcit": of_timm("xcit_nano_12_p16_224", depth=2),
    "timm mixer": Network(mixer, 64),
}


def randomised(module: nn.Module) -> nn.Module:
    """Give weights and statistics that are constant random values; evaluation mode."""
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            kind = name.rpartition(".")[2]
            if kind == "running_mean":
                buffer.normal_(0, 0.3)
            elif kind == "running_var":
                buffer.uniform_(0.5, 2)
            elif kind == "threshold":  # of the layers that snap what is near the mean to the mean
                buffer.fill_(0.2)
        for weight in module.parameters():
            if weight.numel() > 1 and weight.max() == weight.min():
                weight.add_(torch.randn_like(weight) / 10)
    return module.eval()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Without what networks print and warn of; tensors stay where they are."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        mock.patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self),
    ):
        warnings.simplefilter("ignore")
        yield


def differences(module: nn.Module, model: ja.Model, network: Network) -> list[float]:
    """Largest relative differences of logits in float32 and float64, and of gradients."""
    images = np.random.default_rng(1).random((IMAGES, network.size, network.size, 3))

    def torch_logits(x: torch.Tensor) -> torch.Tensor:
        every, apart = (
            torch.cat(rows if network.output is None else [row[network.output] for row in rows])
            for rows in ([module(x)], [module(image[None]) for image in x])
        )
        # All at once, if that is the same function: for one image at a time, torch's derivative of
        # XCiT is another one than that of several, and than finite differences.
        return every if torch.allclose(every, apart, 1e-4, 1e-6) else apart

    def loss(params: Any, images: jax.Array) -> jax.Array:
        logits = model.apply(params, images)
        return -jax.nn.log_softmax(logits)[jnp.arange(IMAGES), labels].sum()

    options = brief_options("cpu")
    x = torch.tensor(images.transpose(0, 3, 1, 2))
    # With gradients, as an attack sees it: without them HardMaxMap returns infinities.
    expected = torch_logits(x.float()).detach().float().numpy()
    logits = jax.jit(lambda m, x: m(x), compiler_options=options)(model, np.float32(images))

    module, x, labels = module.double(), x.requires_grad_(), np.arange(IMAGES) % expected.shape[1]
    exact = torch_logits(x)
    torch.nn.functional.cross_entropy(exact, torch.tensor(labels), reduction="sum").backward()
    assert x.grad is not None
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: np.asarray(array, np.float64), model.params)
        gradient = jax.jit(jax.grad(loss, 1), compiler_options=options)(wide, images)
        wide_logits = jax.jit(model.apply, compiler_options=options)(wide, images)
    return [
        relative(logits, expected),
        relative(wide_logits, exact.detach().numpy()),
        relative(gradient, x.grad.numpy().transpose(0, 2, 3, 1)),
    ]


def relative(ours: jax.Array, theirs: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def outcome(network: Network) -> tuple[str, list[Any]]:
    """Whether it is converted and equal (nothing said), or what is not, and the rest of its row."""
    torch.manual_seed(0)
    try:
        with hushed():
            module = randomised(network.build())
    except Exception as error:
        return "not built", ["", "", "", "", f"not built: {type(error).__name__}: {error}"[:200]]
    begin = time.perf_counter()
    try:
        with hushed():
            model = ja.from_torch(module, (network.size, network.size, 3), output=network.output)
    except ValueError as error:
        return "refused", ["", "", "", time.perf_counter() - begin, str(error)[:300]]
    seconds = time.perf_counter() - begin
    with hushed():
        logits, exact, gradients = differences(module, model, network)
    equal = logits <= LOGITS and gradients <= GRADIENTS
    rounding = exact <= ROUNDING and gradients <= GRADIENTS
    told = "" if equal else ROUNDED if rounding else "differs"
    return told, [logits, exact, gradients, seconds, told]


def main() -> None:
    parser = arguments(__doc__, names="parts of names (default: all networks)")
    words = parser.parse_args().names
    for title, networks in (("RobustBench's zoo", ROBUSTBENCH), ("timm", TIMM)):
        rows, told = [], []
        for name, network in networks.items():
            if words and not any(word in name for word in words):
                continue
            what, row = outcome(network)
            told.append(what)
            rows.append([name, *row])
            CONSOLE.print(*(f"{c:.2g}" if isinstance(c, float) else c for c in rows[-1]))
        if rows:
            share = f"{told.count('')} of {len(rows)} converted and equal"
            if ROUNDED in told:
                share += f", {told.count(ROUNDED)} in float64 alone"
            header = ["network", "logits", "in float64", "gradients", "seconds", ""]
            show(f"{title}: {share}", header, rows)


if __name__ == "__main__":
    main()
