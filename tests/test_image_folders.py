"""Folders of pictures against Pillow and numpy: their splits, their classes, their pixels."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest

from jaxadv.data import load_data
from jaxadv.engine.checks import CheckWarning

Image = pytest.importorskip("PIL.Image", reason="Pillow is an extra")
RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (6, 5, 1), np.uint8)
picture = Image.fromarray(RGB)


def write(root, *paths, image=picture):
    """The same picture at each of these paths; a path that ends in "/" is an empty folder."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).mkdir() if path.endswith("/") else image.save(root / path)


def classes_of(root, split):
    """The class folder that each label stands for."""
    data = load_data(root, split)
    return [data.classes[label] for label in data.labels], data


@pytest.fixture(autouse=True)
def no_doubts():
    """A warning where a test expects none is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_all_splits_number_the_classes_alike(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/a.png", "train/fox/a.png", "train/ant/")
    write(tmp_path, "test/dog/a.png", "test/fox/a.png", "val/emu/a.png", "val/cat/a.png")
    wanted = {"train": ["cat", "dog", "fox"], "test": ["dog", "fox"], "val": ["cat", "emu"]}
    for split, names in wanted.items():
        found, data = classes_of(tmp_path, split)
        assert found == names
        assert data.classes == ("ant", "cat", "dog", "emu", "fox")
    assert load_data(tmp_path, "test[1:]").labels.tolist() == [4]


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("Test", "test"),
        ("test", "TEST"),
        ("TESTING", "test"),
        ("test", "testing"),
        ("Val", "dev"),
        ("valid", "validation"),
        ("validation", "Valid[:1]"),
        ("dev", "val"),
        ("Training", "train"),
    ],
)
def test_splits_go_by_their_usual_names(tmp_path, folder, split):
    write(tmp_path, f"{folder}/cat/a.png", f"{folder}/dog/a.png")
    assert load_data(tmp_path, split).classes == ("cat", "dog")


def test_a_split_that_is_not_there_is_refused_with_what_is(tmp_path):
    write(tmp_path, "Train/cat/a.png", "Train/dog/a.png", "val/cat/a.png", "valid/dog/a.png")
    with pytest.raises(ValueError, match=r"'test' is not known.*\['Train', 'val', 'valid'\]"):
        load_data(tmp_path)
    with pytest.raises(ValueError, match=r"'dev' is not clear.*\['Train', 'val', 'valid'\]"):
        load_data(tmp_path, "dev")
    assert classes_of(tmp_path, "valid")[0] == ["dog"]


def test_splits_without_folders_of_classes_are_no_classes(tmp_path):
    write(tmp_path, "Train/a.png", "Test/a.png", "Test/b.png")
    with pytest.raises(ValueError, match=r"Test has no images in folders of classes \(2 lie"):
        load_data(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, "boat/a.png", "car/a.png", "train/a.png")
    assert classes_of(tmp_path, "test")[0] == ["boat", "car", "train"]


def test_folders_beside_the_splits_are_not_read(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "notes/a.png")
    assert load_data(tmp_path).classes == ("cat", "dog")


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    write(tmp_path, "cat/a.png", "cat/.checkpoints/a.png", "cat/._a.png", "dog/a.png", "dog/b.png/")
    write(tmp_path, ".git/a.png", "cat/deep/b.png")
    assert load_data(tmp_path).labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("paths", "folder", "split", "message"),
    [
        (["pets/cat/a.png", "pets/dog/a.png"], "", "test", "one class, the folder 'pets'"),
        (["train/n1/a.png", "train/n2/a.png", "val/images/a.png"], "", "train", "'images'"),
        (
            [f"{n}/{c}/a.png" for n in ("train2017", "val2017") for c in "ab"],
            "",
            "test",
            "if they are splits, name them as train, test, val",
        ),
        ([f"{n}/a.png" for n in range(11)], "", "test", "label 2 is the folder '10'.*'02'"),
        (
            ["train/cat/a.png", "train/dog/a.png", "val/dog/a.png", "val/fox/a.png"],
            "val",
            "test",
            "split='val'",
        ),
    ],
)
def test_labels_that_may_be_others_are_warned_of(tmp_path, paths, folder, split, message):
    write(tmp_path, *paths)
    with pytest.warns(CheckWarning, match=message) as caught:
        load_data(tmp_path / folder, split)
    assert caught[0].filename == __file__  # the line that asked for the data


def test_grey_or_colour_does_not_depend_on_the_slice(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png")
    write(tmp_path, "a/2.png", image=picture.convert("L"))
    whole = load_data(tmp_path).images
    assert whole.shape == (3, 6, 5, 3)
    for row in range(3):
        np.testing.assert_array_equal(
            load_data(tmp_path, f"test[{row}:{row + 1}]").images[0], whole[row]
        )


def test_a_folder_of_grey_pictures_of_all_kinds_is_grey(tmp_path):
    for name, mode in (("a/1.png", "L"), ("a/2.png", "LA"), ("b/1.png", "1")):
        write(tmp_path, name, image=picture.convert(mode))
    images = np.rint(load_data(tmp_path).images * 255)
    grey = np.asarray(picture.convert("L"))
    bilevel = np.asarray(picture.convert("1")) * 255
    np.testing.assert_array_equal(images[..., 0], [grey, grey, bilevel])


def read_one(root, content, name="x.png"):
    """The pixels of one picture, given as the bytes of its file; it stands beside another class."""
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a" / name).write_bytes(content)
    return np.rint(load_data(root).images[0] * 255)


def encoded(image, form="png", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def deep_png(colour, channels):
    """A PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(kind, content):
        sum_ = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + sum_

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\1\2" * 4 * channels) * 4)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb():
    """A PNG whose header promises 3.6 billion pixels."""
    content = bytearray(encoded(picture))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


DAMAGED = {
    "nothing.png": b"",
    "text.jpg": b"this is no picture",
    **{
        f"half.{form}": encoded(picture, form)[: len(encoded(picture, form)) * 6 // 10]
        for form in ("jpeg", "png", "gif", "bmp", "tiff", "webp", "ppm")
    },
    "bomb.png": bomb(),
    "float.tiff": encoded(Image.fromarray(np.float32(RGB[..., 0])), "tiff"),
    "grey16.png": deep_png(0, 1),
    "colour16.png": deep_png(2, 3),
    "alpha16.png": deep_png(6, 4),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("size", [None, 4])
def test_what_cannot_be_read_is_one_error_with_the_path(tmp_path, name, size):
    write(tmp_path, "b/a.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=rf"a/{name} cannot be read as a picture"):
        load_data(tmp_path, size=size)
    # Where it is not asked for it is in nobody's way.
    assert load_data(tmp_path, "test[1:]").images.shape == (1, 6, 5, 3)


def test_a_dangling_link_is_an_error_with_the_path(tmp_path):
    write(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a/2.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"a/2\.png cannot be read"):
        load_data(tmp_path)


PALETTE = picture.convert("P", palette=Image.Palette.ADAPTIVE)
PALETTE_RGB = np.asarray(PALETTE.convert("RGB"))


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (encoded(Image.fromarray(np.dstack([RGB, ALPHA]))), RGB),
        (encoded(Image.fromarray(np.dstack([RGB[..., :1], ALPHA]))), RGB[..., :1]),
        (encoded(picture, transparency=tuple(map(int, RGB[0, 0]))), RGB),
        (encoded(PALETTE), PALETTE_RGB),
        (encoded(PALETTE, transparency=3), PALETTE_RGB),
        (encoded(PALETTE, transparency=bytes(range(30))), PALETTE_RGB),
        (encoded(picture, "gif", save_all=True, append_images=[picture.rotate(180)]), None),
        (
            encoded(
                picture, "webp", save_all=True, append_images=[picture.rotate(180)], lossless=True
            ),
            RGB,
        ),
        (encoded(picture, "tiff", save_all=True, append_images=[picture.rotate(180)]), RGB),
        (encoded(picture.convert("CMYK"), "tiff"), RGB),
        (encoded(picture.convert("CMYK"), "jpeg"), None),
        (encoded(picture.convert("YCbCr"), "jpeg"), None),
    ],
    ids=[
        "alpha",
        "grey and alpha",
        "transparent colour",
        "palette",
        "transparent palette",
        "translucent palette",
        "animated gif",
        "animated webp",
        "pages",
        "cmyk",
        "cmyk jpeg",
        "ycbcr jpeg",
    ],
)
def test_pixels_are_those_of_pillow(tmp_path, content, pixels):
    found = read_one(tmp_path, content)
    if pixels is None:
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(
    ("entry", "turned"),
    [
        (1, RGB),
        (2, RGB[:, ::-1]),
        (3, RGB[::-1, ::-1]),
        (4, RGB[::-1]),
        (5, RGB.transpose(1, 0, 2)),
        (6, np.rot90(RGB, -1)),
        (7, RGB[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(RGB)),
        (77, RGB),  # no such turn
    ],
)
def test_pictures_are_turned_as_exif_says(tmp_path, entry, turned):
    exif = Image.Exif()
    exif[0x0112] = entry
    np.testing.assert_array_equal(read_one(tmp_path, encoded(picture, exif=exif)), turned)


@pytest.mark.parametrize("size", [0, -1, 2.5, "224"])
def test_sizes_that_are_none(tmp_path, size):
    write(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(ValueError, match=f"size={size}"):
        load_data(tmp_path, size=size)
