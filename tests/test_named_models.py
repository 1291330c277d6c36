"""Models and data by the text that names them: each kind is the model of its own library."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.core.python_objects import load_object
from jaxadv.models import get_definition, save_weights
from jaxadv.models.named import is_loaded, name_of
from tests.commands import run_command

IMAGES = np.random.default_rng(0).random((6, 2, 2, 1), np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
LOGITS = IMAGES.reshape(6, 4) @ WEIGHTS  # what every model below returns

CODE = """
import numpy as np
import jax.numpy as jnp
import flax.linen as nn
from flax import nnx
from sklearn.linear_model import LogisticRegression
import jaxadv as ja
from beside import WEIGHTS

def rows(images):
    return images.reshape(len(images), -1)

model = ja.Model(lambda w, x: rows(x) @ w, jnp.asarray(WEIGHTS))

def function(images):
    return rows(images) @ WEIGHTS

class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, use_bias=False)(rows(x))

def linen():
    return Linen(), {"params": {"Dense_0": {"kernel": jnp.asarray(WEIGHTS)}}}

class Nnx(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))
        self.dense.kernel = nnx.Param(jnp.asarray(WEIGHTS))

    def __call__(self, x):
        return self.dense(rows(x))

module = Nnx()

def estimator(seed=0):
    fitted = LogisticRegression().fit(np.eye(4)[:3], [0, 1, 2])
    fitted.coef_, fitted.intercept_ = WEIGHTS.T.astype(float), np.zeros(3)
    return fitted

def parts(images):
    return {"scores": function(images), "features": images}

def pair(images):
    return rows(images), function(images)

class Output:
    def __init__(self, logits):
        self.logits = logits

def output(images):
    return Output(function(images))

bare = Linen()
number = 3
WEIGHTS_BY_NAME = {"weight": WEIGHTS}

def fails():
    raise RuntimeError("no weights here")

images = (np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 2, 2, 1), np.arange(6) % 3)

def splits(split):
    return images if split == "test" else (images[0][:3], images[1][:3])
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    (folder / "beside.py").write_text(
        f"import numpy as np\nWEIGHTS = np.array({WEIGHTS.tolist()}, np.float32)\n"
    )
    (folder / "net.py").write_text(CODE)
    return folder / "net.py"


@pytest.mark.parametrize("name", ["model", "function", "linen", "module", "estimator"])
def test_each_kind_of_object_is_converted(file, name):
    model = ja.load_model(f"{file}:{name}")
    np.testing.assert_allclose(model(IMAGES), LOGITS, atol=1e-5)


@pytest.mark.parametrize(("name", "part"), [("parts", "scores"), ("pair", 1), ("output", "logits")])
def test_a_part_of_the_output_holds_the_logits(file, name, part):
    model = ja.load_model(f"{file}:{name}", output=part)
    np.testing.assert_allclose(model(IMAGES), LOGITS, atol=1e-6)
    with pytest.raises(ValueError, match="output='no' is no part"):
        ja.load_model(f"{file}:{name}", output="no")(IMAGES)


def test_normalisation_and_bounds_in_the_scale_of_the_images(file):
    model = ja.load_model(f"{file}:function", bounds=(-1, 2), mean=[0.5], std=[0.25])
    np.testing.assert_allclose(
        model(IMAGES), ((IMAGES - 0.5) / 0.25).reshape(6, 4) @ WEIGHTS, atol=1e-5
    )
    assert model.bounds == (-1.0, 2.0)


def test_files_and_folders(tmp_path):
    module = get_definition("FC")(widths=(3,), classes=2)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    path = tmp_path / "net.safetensors"
    settings = {"widths": (3,), "classes": 2}
    save_weights(path, "FC", settings, variables, image_shape=(2, 2, 1))
    model = ja.load_model(path)
    np.testing.assert_allclose(model(IMAGES), module.apply(variables, IMAGES), atol=1e-6)
    with pytest.raises(ValueError, match="weights.npz|is not known"):
        ja.load_model(tmp_path)


TORCH = """
import torch
from beside import WEIGHTS

network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3, bias=False)).eval()
network[1].weight.data = torch.tensor(WEIGHTS.T.copy())
"""


def test_networks_of_torch(file, tmp_path):
    torch = pytest.importorskip("torch")
    (file.parent / "torch_net.py").write_text(TORCH)
    spec = f"{file.parent / 'torch_net.py'}:network"
    model = ja.load_model(spec, image_shape=(2, 2, 1))
    np.testing.assert_allclose(model(IMAGES), LOGITS, atol=1e-5)
    with pytest.raises(ValueError, match="image_shape=None"):
        ja.load_model(spec)
    exported = torch.export.export(load_object(spec), (torch.zeros(1, 1, 2, 2),))  # type: ignore
    torch.export.save(exported, tmp_path / "net.pt2")
    model = ja.load_model(tmp_path / "net.pt2")
    np.testing.assert_allclose(model(IMAGES), LOGITS, atol=1e-5)
    common = f"--data {file}:images --epsilon 0.05 --output {tmp_path}/out --json {tmp_path}/r.json"
    result = run_command(f"attack FGSM --model {spec} {common}")
    assert result.exit_code == 0, result.output


def test_what_is_trained_here_and_what_exists(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet").mkdir()
    assert [is_loaded(one) for one in ("lenet", "./lenet", "fc", "a.b:c", f"{file}:x")] == [
        False,
        True,
        False,
        True,
        True,
    ]
    for missing in ("net.onnx", "folder/net", "net.txt"):
        with pytest.raises(FileNotFoundError, match="does not exist: pass a file"):
            is_loaded(missing)
    assert name_of("a/linf0.3") == "linf0.3"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{file}:bare", "without its weights"),
        ("{file}:number", "is int, and no model"),
        ("{file}:Linen", "and no model"),
        ("{file}:nothing", "has no 'nothing': pass one of"),
        ("no_such_package.nets:net", "no module 'no_such_package.nets'"),
        ("{file}:WEIGHTS_BY_NAME", "is dict.*weights alone.*ja.from_torch_arrays"),
        ("{file}:Linen", "it is a class, so name an object"),
        ("{file}:fails", r"net.py fails on line \d+ \(RuntimeError: no weights here"),
        ("{folder}/net.pt", "a pickle, which is not read"),
        ("{folder}/net.h5", "save it as a .keras file"),
        ("net.txt", "does not exist: pass a file"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(file, spec, said):
    for name in ("net.pt", "net.h5"):
        (file.parent / name).write_bytes(b"")
    spec = spec.replace("{folder}", str(file.parent))
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        ja.load_model(spec.format(file=file))


def test_a_file_that_fails_names_its_line(tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(ValueError, match=r"broken.py fails on line 2 \(ZeroDivisionError"):
        load_object(f"{tmp_path / 'broken.py'}:x")
    (tmp_path / "odd.py").write_text("x = 1\ny = (\n")
    with pytest.raises(ValueError, match=r"odd.py fails on line 2 \(SyntaxError"):
        load_object(f"{tmp_path / 'odd.py'}:x")
    (tmp_path / "broken.py").write_text("x = 1\n")  # mended: it is run again
    assert load_object(f"{tmp_path / 'broken.py'}:x") == 1


def test_data_of_code(file):
    data = ja.load_data(f"{file}:images")
    assert data.images.shape == (6, 2, 2, 1)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(ja.load_data(f"{file}:splits").labels) == 6
    assert len(ja.load_data(f"{file}:splits:train").labels) == 3
    assert len(ja.load_data(f"{file}:splits:test[:2]").labels) == 2
    with pytest.raises(ValueError, match="is not split"):
        ja.load_data(f"{file}:images:train")
    with pytest.raises(ValueError, match="name a pair"):
        ja.load_data(f"{file}:number")


def test_one_command_evaluates_the_code_of_a_user(file, tmp_path):
    common = f"--data {file}:images --epsilon 0.05 --output {tmp_path}/out --json {tmp_path}/r.json"
    result = run_command(f"attack FGSM --model {file}:linen {common}")
    assert result.exit_code == 0, result.output
    linen = json.loads((tmp_path / "r.json").read_text())
    result = run_command(f"attack FGSM --model {file}:parts --logits-of scores {common}")
    assert result.exit_code == 0, result.output
    parts = json.loads((tmp_path / "r.json").read_text())
    assert (linen.pop("model"), parts.pop("model")) == ("linen", "parts")
    assert linen.pop("seconds") > 0 < parts.pop("seconds")
    assert parts == linen


def test_a_sweep_loads_the_code_of_a_user(file, tmp_path):
    grid = ja.sweep.parse_grid(
        f"""
        epsilons = {{linf = [0.05]}}
        data = [{{name = "{file}:images"}}]
        models = [
            {{load = "net.py:linen"}}, {{load = "net.py:parts", output = "scores"}}
        ]
        attacks = [{{name = "FGSM"}}]
        """,
        folder=file.parent,
    )
    ja.run_sweep(grid, tmp_path / "store")
    rows = ja.SweepStore(tmp_path / "store").rows().to_pydict()
    ours = {name: [] for name in set(rows["model"])}
    for name, success, distance in zip(
        rows["model"], rows["success"], rows["distance"], strict=True
    ):
        ours[name].append((success, distance))
    assert sorted(ours) == ["linen", "parts"]
    assert ours["linen"] == ours["parts"]


def test_weights_of_other_programs_are_told_from_those_of_jaxadv(tmp_path):
    import safetensors.numpy

    file = tmp_path / "net.safetensors"
    for metadata in (None, {"format": "pt"}):  # as torch and transformers write them
        safetensors.numpy.save_file({"weight": WEIGHTS}, file, metadata)
        with pytest.raises(ValueError, match=r"1 arrays and no metadata.*ja.from_torch_arrays"):
            ja.load_model(file)


def test_the_command_line_reads_the_arrays_of_a_file_once(tmp_path, monkeypatch):
    from jaxadv.cli.subject import Subject, loaded_model
    from jaxadv.models import weights

    module = get_definition("FC")(widths=(4,), classes=3)
    variables = module.init(jax.random.key(0), IMAGES)
    file = tmp_path / "net.safetensors"
    save_weights(file, "FC", {"widths": [4], "classes": 3}, variables, image_shape=(2, 2, 1))
    reads, read = [], weights.read_arrays
    monkeypatch.setattr(weights, "read_arrays", lambda path: reads.append(path) or read(path))
    model, name = loaded_model(Subject(model=str(file)), (2, 2, 1))
    assert (len(reads), name) == (1, "FC (net.safetensors)")
    np.testing.assert_allclose(model(IMAGES), module.apply(variables, IMAGES), atol=1e-6)


def test_functions_that_are_no_jax_are_told_how_they_are_called():
    model = ja.from_function(lambda images: np.asarray(images).reshape(6, 4) @ WEIGHTS)
    with pytest.raises(ValueError, match=r"no function of JAX.*differentiable=False"):
        ja.run(ja.FGSM(), model, IMAGES, [0] * 6, 0.1, key=jax.random.key(0))
