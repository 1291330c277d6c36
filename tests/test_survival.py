"""Transforms against Pillow and SciPy, their gradients, and what survives them."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import jaxadv as ja
from jaxadv.core.jpeg import CHROMINANCE, LUMINANCE, jpeg, quantisation
from jaxadv.data import load_data
from jaxadv.models import load_published
from tests.random_state import restored

Image = pytest.importorskip("PIL.Image")
RNG = np.random.default_rng(0)
restored_before_each_test = restored(RNG)
PICTURE = jnp.asarray(RNG.random((20, 27, 3)), jnp.float32)
ONE = jax.devices()[:1]


def stored(image: np.ndarray, quality: int, subsampling: bool) -> np.ndarray:
    """What Pillow reads of what Pillow wrote."""
    file = io.BytesIO()
    pixels = image.astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, "JPEG", quality=quality, subsampling=2 if subsampling else 0
    )
    return np.asarray(Image.open(file)).astype(float).reshape(image.shape)


def scene(height: int, width: int, channels: int) -> np.ndarray:
    """A picture that is smooth here and sharp there, of 0 to 255."""
    y, x = np.mgrid[:height, :width] / 5
    waves = [np.sin(x * (1 + c / 3)) * np.cos(y + c) for c in range(channels)]
    picture = 128 + 70 * np.stack(waves, -1) + 8 * RNG.normal(size=(height, width, channels))
    picture[height // 3 : height // 2, width // 4 : width // 2] = [250, 10, 60][:channels]
    return np.round(picture.clip(0, 255))


@pytest.mark.parametrize(
    ("shape", "subsampling"),
    [((28, 28, 1), True), ((32, 32, 3), True), ((33, 45, 3), True), ((33, 45, 3), False)],
)
def test_jpeg_is_pillows(shape: tuple[int, int, int], subsampling: bool) -> None:
    """A mean difference below three quarters of a level of 256; 97 % of the pixels within three."""
    images = np.stack([scene(*shape) for _ in range(8)])
    program = jax.jit(jax.vmap(lambda x, q: jpeg(x, q, subsampling), in_axes=(0, None)))
    for quality in (10, 50, 75, 95):
        ours = np.asarray(program(images.astype(np.float32), np.float32(quality)))
        theirs = np.stack([stored(image, quality, subsampling) for image in images])
        apart = np.abs(ours - theirs)
        assert apart.mean() < 0.75
        assert (apart > 3).mean() < 0.03
        # The yardstick: what JPEG itself did to the images.
        assert apart.mean() < 0.25 * np.abs(theirs - images).mean()


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 100])
def test_the_tables_are_those_that_pillow_writes(quality: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization
    for table, number in ((LUMINANCE, 0), (CHROMINANCE, 1)):
        ours = np.asarray(quantisation(table, quality)).ravel()
        np.testing.assert_array_equal(ours, tables[number])


def test_blur_is_scipys() -> None:
    program = jax.jit(lambda image, sigma: ja.GaussianBlur(sigma)(image))
    for sigma in (0.3, 1.0, 2.5, 6.0):
        expected = gaussian_filter(PICTURE, (sigma, sigma, 0), truncate=4)
        np.testing.assert_allclose(program(PICTURE, np.float32(sigma)), expected, atol=1e-6)
    np.testing.assert_allclose(program(PICTURE, np.float32(0)), PICTURE, atol=1e-6)


def test_a_foveated_view_is_scipys_blur_by_eccentricity() -> None:
    """Exact at the fixation and the far corner; in between it interpolates, smooth images well."""
    picture = gaussian_filter(PICTURE, (1, 1, 0))
    down, right = np.arange(20) + 0.5 - 5, np.arange(27) + 0.5 - 13.5
    sigma = 0.15 * np.hypot(down[:, None], right)
    ours = np.asarray(jax.jit(lambda image, s: ja.Foveation(s, row=0.25)(image))(picture, 0.15))
    for row, column in ((19, 0), (4, 13), (4, 4), (12, 20), (19, 13)):
        blurred = gaussian_filter(picture, (sigma[row, column],) * 2 + (0,), truncate=4)
        exact = (row, column) == (19, 0)
        apart = np.abs(ours[row, column] - blurred[row, column]).max()
        assert apart < (1e-6 if exact else 0.01)
    np.testing.assert_allclose(ja.Foveation(0.0)(PICTURE), PICTURE, atol=1e-6)
    with pytest.raises(ValueError, match="row=2"):
        ja.Foveation(row=2)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's triangle filter on floats."""
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[-1])]
    return np.stack([p.resize((width, height), Image.Resampling.BILINEAR) for p in planes], -1)


def test_scaling_and_cropping_are_pillows() -> None:
    for factor in (0.5, 0.3):
        small = resized(PICTURE, round(factor * 20), round(factor * 27))
        ours = ja.Rescaling(factor)(PICTURE)
        np.testing.assert_allclose(ours, resized(small, 20, 27), atol=1e-5)
    for margin in (1, 3):
        rest = PICTURE[margin : 20 - margin, margin : 27 - margin]
        ours = ja.Cropping(margin)(PICTURE)
        np.testing.assert_allclose(ours, resized(rest, 20, 27), atol=1e-5)


def test_light_is_pillows() -> None:
    """To a level of 256, that Pillow cuts off, and half a level of its rounded mean."""
    from PIL import ImageEnhance

    pixels = np.round(255 * np.asarray(PICTURE)).astype(np.uint8)
    for factor in (0.4, 1.0, 1.7):
        for ours, theirs in (
            (ja.Brightness(factor), ImageEnhance.Brightness),
            (ja.Contrast(factor), ImageEnhance.Contrast),
        ):
            expected = np.asarray(theirs(Image.fromarray(pixels)).enhance(factor)).astype(float)
            found = 255 * np.asarray(ours(jnp.asarray(pixels) / 255.0))
            assert np.abs(found - expected).max() < 1.5


@pytest.mark.slow
def test_rounding_noise_and_shifts() -> None:
    exact = np.round(255 * np.asarray(PICTURE, float)) / 255
    np.testing.assert_allclose(ja.Rounding(256)(PICTURE), exact, atol=1e-7)
    keys = jax.random.split(jax.random.key(0), 200)
    grey = jnp.full((5, 6, 1), 0.5)
    noisy = jax.vmap(lambda k: ja.Noise(0.1)(grey, k))(keys)
    assert np.std(noisy) == pytest.approx(0.1, rel=0.05)
    assert ja.Noise(50.0)(grey, keys[0]).max() == 1
    moved = np.asarray(jax.vmap(lambda k: ja.Shifting(1)(PICTURE, k))(keys))
    wide = np.pad(PICTURE, ((1, 1), (1, 1), (0, 0)), mode="edge")
    all_nine = [wide[r : r + 20, c : c + 27] for r in range(3) for c in range(3)]
    which = [[(one == image).all() for one in all_nine].index(True) for image in moved]
    assert np.bincount(which, minlength=9).min() > 8


@pytest.mark.parametrize(
    "transform",
    [
        ja.Rounding(16),
        ja.JPEG(60),
        ja.JPEG(60, subsampling=False),
        ja.GaussianBlur(1.0),
        ja.Foveation(0.2, row=0.3),
        ja.Brightness(0.7),
        ja.Contrast(0.6),
        ja.Rescaling(0.5),
        ja.Cropping(2),
    ],
    ids=lambda t: type(t).__name__,
)
def test_the_gradient_is_that_of_the_smooth_part(transform: ja.Transform) -> None:
    """Along a wide change the slope says what differences say: rounding averages out."""
    image = 0.3 + 0.4 * scene(16, 16, 3).astype(np.float32) / 255
    ways = gaussian_filter(RNG.normal(size=(24, *image.shape)), (0, 2, 2, 0)).astype(np.float32)
    ways /= np.abs(ways).max((1, 2, 3), keepdims=True)

    @jax.jit
    def along(share, way):
        return (transform(image + share * way) * way).sum()

    slopes = np.array([float(jax.grad(along)(0.0, way)) for way in ways])
    differences = np.array([float(along(0.2, way) - along(-0.2, way)) / 0.4 for way in ways])
    assert slopes.mean() == pytest.approx(differences.mean(), rel=0.1)


@pytest.mark.slow
def test_attacks_go_through_a_transform_without_a_derivative() -> None:
    """Two levels and a linear model: an attack must carry pixels across one half, or do nothing."""
    weights = jnp.array([[1.0, -1], [-1, 1], [0.5, -0.5], [-0.5, 0.5]])
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, weights, (-1.0, 3.0))
    unit = np.array([[0.6, 0.45, 0.9, 0.1], [0.6, 0.4, 0.9, 0.1]], np.float32)
    images = (4 * unit - 1).reshape(2, 2, 2, 1)  # bounds are mapped to 0 and 1
    rounded = ja.transformed(model, ja.Rounding(2))
    labels = np.asarray(rounded(images)).argmax(1)
    assert labels.tolist() == [0, 0]
    # One entry beyond a half of the first two is enough: the first needs 0.05 of the side, then
    # the signs of both entries turn the sum to 0.5 + ... < 0 only once both have crossed.
    for epsilon, expected in ((4 * 0.03, [False, False]), (4 * 0.12, [True, True])):
        found = ja.run(
            ja.PGD(loss="margin"),
            rounded,
            images,
            ja.Untargeted(labels),
            epsilon,
            key=jax.random.key(0),
            devices=ONE,
            lanes=2,
        )
        assert found.success.tolist() == expected


@pytest.mark.slow
def test_strengths_share_a_program_and_random_transforms_are_random_models() -> None:
    traces = []

    def counted(weights, images):
        traces.append(1)
        return images.reshape(len(images), -1) @ weights

    model = ja.Model(counted, jnp.eye(4))
    program = jax.jit(lambda m, x: m(x))
    image = jnp.array([0.2, 0.9, 0.4, 0.1]).reshape(1, 2, 2, 1)
    answers = [program(ja.transformed(model, ja.GaussianBlur(s)), image) for s in (0.1, 1.0, 2.0)]
    assert len(traces) == 1 and not np.allclose(answers[0], answers[2])
    noisy = ja.transformed(model, ja.Noise(0.1))
    assert noisy.random
    np.testing.assert_array_equal(program(noisy, image), program(noisy, image))
    assert np.ptp([program(noisy, image), program(noisy.fresh(), image)], 0).min() > 0
    mean = program(ja.EOT(noisy, 2000), image)
    np.testing.assert_allclose(mean, image.reshape(1, 4), atol=0.015)
    both = ja.transformed(noisy, ja.Noise(0.1))  # two draws, not one twice
    spread = np.std([program(both, image + 1e-4 * i) for i in range(300)], 0)
    assert spread.mean() == pytest.approx(0.1 * 2**0.5, rel=0.15)
    with pytest.raises(ValueError, match="EOT around"):
        ja.transformed(ja.EOT(noisy, 3), ja.Noise(0.1))


@pytest.mark.slow
def test_survival_of_what_is_known() -> None:
    """A linear model that looks at fine stripes alone; answers are counted again here."""
    stripes = np.tile([1.0, -1.0], (8, 4)).astype(np.float32)
    weights = np.stack([stripes.ravel(), -stripes.ravel()], 1) / 64
    model = ja.Model(lambda w, x: (x.reshape(len(x), -1) - 0.5) @ w, jnp.asarray(weights))
    images = np.stack([0.5 + a * stripes for a in (0.1, 0.2, 0.3)])[..., None]
    blurs = {s: ja.GaussianBlur(s) for s in (0.3, 0.6)}
    found = ja.survival(
        model,
        images,
        np.zeros(3, int),
        {"PGD": ja.PGD(loss="margin", steps=20)},
        0.35,
        transforms={"blur": blurs},
        lanes=4,
    )
    assert (found.plain, found.success[0]) == (1.0, 1.0)
    assert found.kinds == ("blur", "blur") and found.clean.tolist() == [1, 1]
    for t, transform in enumerate(blurs.values()):
        answers = np.asarray(ja.transformed(model, transform)(found.found[0])).argmax(1)
        assert found.survived[0, t] == pytest.approx((answers == 1).mean())
        assert found.ordinary[0, t] == pytest.approx((answers == 0).mean())
        # Inside, a blur makes stripes fainter and no more: 0.35 outweighs 0.1, 0.2 and 0.3.
        assert found.adaptive[0, t] == 0
    for given, words in (
        ({"attacks": {}}, "attacks is empty"),
        ({"transforms": {}}, "transforms is empty"),
    ):
        with pytest.raises(ValueError, match=words):
            ja.survival(model, images, np.zeros(3, int), epsilon=0.1, **given)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ja.JPEG(0), "quality=0"),
        (lambda: ja.JPEG(101), "quality=101"),
        (lambda: ja.GaussianBlur(-1), "sigma=-1"),
        (lambda: ja.Rounding(1), "levels=1"),
        (lambda: ja.Rescaling(1.5), "factor=1.5"),
        (lambda: ja.Shifting(-1), "most=-1"),
        (lambda: ja.JPEG()(jnp.zeros((8, 8, 2))), "2 channels"),
    ],
)
def test_what_cannot_be_meant_is_said(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
def test_jpeg_is_no_defence_of_a_real_network(shared) -> None:
    """Dziugaite et al. (2016, arXiv 1608.00853): JPEG undoes much of small perturbations; Athalye
    et al. (2018, arXiv 1802.00420): nothing of those made through it."""
    model = load_published(shared / "data/models/cifar10_resnet2b")
    data = load_data(shared / "data/cifar10/cifar10_test.npz", count=40)
    found = ja.survival(
        model,
        data.images,
        data.labels,
        {"DDN": ja.DDN(steps=50)},
        transforms={"JPEG": {75: ja.JPEG(75)}},
    )
    assert found.success[0] == 1 and found.survived[0, 0] < 0.3
    assert found.ordinary[0, 0] > found.clean[0] - 0.1
    assert found.adaptive[0, 0] == 0 and found.reach[0, 0] > found.distance[0]
