"""The command line: what it understands, refuses, prints, keeps and takes up again."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import jaxadv as ja
from jaxadv.attacks import ATTACKS, build_attack
from jaxadv.cli import parse_epsilons
from jaxadv.models import get_definition, save_weights
from jaxadv.models.weights import read_arrays
from jaxadv.protocols.cascades import CASCADES
from jaxadv.protocols.portfolios import EFFORTS
from jaxadv.report import print_report
from jaxadv.universal.perturbation import METHODS
from tests.commands import arguments, run_command

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def call(cache, tmp_path, monkeypatch):
    """Run the command line in this process, which keeps its own devices and configuration."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unused")
    monkeypatch.setenv("JAXADV_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return run_command


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A net that tells some digits: random features and least squares."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16).reshape(-1, 8, 8, 1).astype("float32")
    module = get_definition("FC")(widths=(32,))
    params = module.init(jax.random.key(0), x[:1])["params"]
    hidden = np.maximum(x.reshape(len(x), -1) @ params["fc1"]["kernel"], 0)
    hidden = np.c_[hidden, np.ones(len(x))]
    last = np.linalg.lstsq(hidden, 10 * np.eye(10)[labels], rcond=None)[0].astype("float32")
    params["fc2"] = {"kernel": jnp.asarray(last[:-1]), "bias": jnp.asarray(last[-1])}
    path = tmp_path_factory.mktemp("weights") / "fc.safetensors"
    save_weights(path, "FC", {"widths": [32]}, {"params": params}, image_shape=(8, 8, 1))
    return path


def environment(cache: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA"))}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "JAXADV_CACHE": str(cache)}


def start(cache: Path, folder: Path, *args) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxadv", *arguments(*args)],
        cwd=folder,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0.1"], [0.1]),
        (["8/255"], [8 / 255]),
        (["0.3,0.1", " 1/4 "], [0.1, 0.25, 0.3]),
        (["0.1", "0.1"], [0.1]),
        (["1e-3"], [0.001]),
        (["0"], [0.0]),
    ],
)
def test_epsilons_are_understood(texts, expected):
    assert parse_epsilons(texts) == expected


@pytest.mark.parametrize(
    "text", ["x", "1/0", "-0.1", "nan", "inf", "1/2/3", "", "__import__('os')", "2**3", "8/"]
)
def test_other_epsilons_are_refused(text):
    with pytest.raises(ValueError, match="--epsilon"):
        parse_epsilons([text])


def test_attacks_are_built_by_name():
    assert build_attack("pgd", {"steps": 3, "norm": "l2"}).steps == 3
    assert build_attack("MinimalEpsilon", {"steps": 3}).attack.steps == 3
    with pytest.raises(ValueError, match="does not take loss, step_size"):
        build_attack("UniformNoise", {"step_size": 0.1, "loss": "dlr"})


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_is_fast_and_imports_no_jax(flag, tmp_path):
    code = (
        "import sys, jaxadv; package = 'jax' in sys.modules\n"
        "from jaxadv.cli import app\n"
        "try: app([sys.argv[1]])\n"
        "except SystemExit: print('jax' in sys.modules, package)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, flag],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.perf_counter() - began < 10
    mine, package = done.stdout.split()[-2:]
    assert mine == package  # the command line adds no import of jax
    if package == "True":
        pytest.xfail("jaxadv/__init__.py itself imports jax")


@pytest.mark.parametrize(
    "line",
    [
        "evaluate --epsilon foo",
        "evaluate --norm l7",
        "evaluate --examples 0",
        "evaluate --nonsense",
        "evaluate --data imagenet",
        "evaluate --data digits --model missing.safetensors",
        "evaluate --data digits --model missing",
        "evaluate --data digits --model gpt",
        "evaluate --json .",
        "evaluate --data mnist --data-dir nowhere",
        "attack",
        "attack zork --epsilon 0.1",
        "attack PGD",
        "attack PGD --epsilon 0.1 --loss hope",
        "attack PGD --epsilon 0.1 --steps 0",
        "attack UniformNoise --epsilon 0.1 --steps 5",
        "train --model gpt --data digits",
        "frobnicate",
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_exit_2(call, line):
    result = call(line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)


@pytest.mark.slow
def test_mistakes_found_late_are_one_line_too(call, weights):
    wrong = call("evaluate --model", weights, "--data mnist5k")
    assert wrong.exit_code == 2
    assert "pass the --data" in wrong.stderr
    unknown = call("evaluate --model", weights, "--data digits --attacks best")
    assert unknown.exit_code == 2
    large = call("attack FGSM --model", weights, "--data digits --epsilon 8")
    assert "8/255" in large.stderr
    for result in (wrong, unknown, large):
        assert re.fullmatch(r"error: [^\n]+\n", result.stderr.splitlines(True)[-1])
        assert "Traceback" not in result.output


def test_evaluate_writes_everything_and_then_only_reads(call, weights, tmp_path):
    args = (
        "evaluate --model",
        weights,
        "--data digits --examples 20 --epsilon 8/255,0.2 --json out.json --lanes 8",
    )
    first = call(*args)
    assert first.exit_code == 0, first.output
    assert "8/255" in first.stdout
    assert "noise (control)" in first.stdout
    assert "sample of 360" in first.stdout
    data = json.loads((tmp_path / "out.json").read_text())
    assert data == json.loads((tmp_path / "jaxadv-results/report.json").read_text())
    assert (tmp_path / "jaxadv-results/report.html").stat().st_size > 10_000
    assert data["examples"] == 20
    assert data["seed"] == 0
    for e, share in enumerate(data["robust_accuracy"]):
        assert share == sum(image["broken_by"][e] is None for image in data["images"]) / 20
    assert data["clean_accuracy"] > 0.5 > data["robust_accuracy"][1]
    second = call(*args)
    assert "nothing was left to do" in second.stdout
    assert "nothing was left to do" not in first.stdout
    assert json.loads((tmp_path / "out.json").read_text()) == data


def test_attack_prints_and_saves(call, weights, tmp_path):
    result = call(
        "attack bim --model",
        weights,
        "--data digits --examples 12 --epsilon 16/255 --steps 3 --loss margin --step-size 1/2",
        "--targeted --save a.npz --json a.json",
    )
    assert result.exit_code == 0, result.output
    assert "targeted" in result.stdout
    assert "16/255" in result.stdout
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["settings"]["steps"] == 3
    assert data["settings"]["step_size"] == 0.5
    saved = np.load(tmp_path / "a.npz")
    moved = np.abs(saved["images"].astype("float64") - saved["originals"]).reshape(12, -1).max(1)
    assert (moved[saved["success"]] <= 16 / 255).all()
    assert [image["success"] for image in data["images"]] == saved["success"].tolist()
    wanted = {"SUCCESS": 1, "MISCLASSIFIED": 2, "FAILED": 3}
    assert {
        k: int((saved["status"] == v).sum()) for k, v in wanted.items() if k in data["statuses"]
    } == data["statuses"]


def test_minimum_norm_attacks_need_no_epsilon(call, weights):
    result = call("attack MinimalEpsilon --model", weights, "--data digits --examples 4 --steps 2")
    assert result.exit_code == 0, result.output
    assert "100.0 %" in result.stdout


def test_attacks_beyond_a_ball_run_with_settings_of_their_own(call, weights, tmp_path):
    common = ("--model", weights, "--data digits --examples 8")
    result = call(
        "attack spatial",
        *common,
        "--set rotation=20 --set angles=5 --set translation=1/2 --json spatial.json",
    )
    assert result.exit_code == 0 and "by rotation and translation" in result.output
    written = json.loads((tmp_path / "spatial.json").read_text())
    assert written["bounded_by"] == "rotation and translation" and written["epsilon"] is None
    assert written["settings"]["rotation"] == 20 and written["settings"]["translation"] == 0.5
    assert max(image["forward"] for image in written["images"]) <= 1 + 125
    for wrong, said in (
        ("--epsilon 0.1", "not by a ball"),
        ("--set turn=3", "does not take turn"),
        ("--set rotation", "pass one like"),
        ("--set rotation=-1", "rotation=-1"),
    ):
        refused = call("attack spatial", *common, wrong)
        assert refused.exit_code != 0 and said in " ".join(refused.output.split())


@pytest.mark.slow
def test_train_writes_weights_that_attack_reads(call, tmp_path):
    result = call(
        "train --model fc --data digits --epochs 3 --output fc.safetensors --json fc.json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "fc.json").read_text())["accuracy"] > 0.5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fc.json", "fc.safetensors"]
    result = call("attack FGSM --model fc.safetensors --data digits --examples 4 --epsilon 0.1")
    assert result.exit_code == 0, result.output


def test_attacks_are_listed(call, tmp_path):
    result = call("attacks --json attacks.json")
    lines = json.loads((tmp_path / "attacks.json").read_text())
    listed = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert len(listed) == len(lines)
    assert "Madry" in lines["PGD"]
    assert set(ATTACKS) < set(lines)
    assert {f"jaxadv evaluate --attacks {name}" for name in CASCADES} < set(lines)
    assert {f"jaxadv distance --effort {name}" for name in EFFORTS} < set(lines)
    assert {f"jaxadv universal --method {name}" for name in METHODS} < set(lines)
    for name in set(lines) - set(ATTACKS):
        assert name.startswith("jaxadv ") or hasattr(ja, name.removeprefix("ja."))


def without_times(path: Path) -> dict:
    data = json.loads(path.read_text())
    for attack in data["attacks"]:
        del attack["seconds"]
    return data


@pytest.mark.slow
def test_interrupted_it_goes_on_to_the_same_result(cache, tmp_path):
    args = (
        "evaluate --data digits --model fc --epochs 30 --examples 40 --epsilon 0.1",
        "--json out.json --lanes 8",
    )
    (tmp_path / "whole").mkdir()
    whole = start(cache, tmp_path / "whole", *args)
    assert whole.wait(300) == 0, whole.stderr.read()
    (tmp_path / "broken").mkdir()
    state = tmp_path / "broken" / "jaxadv-results" / "state"
    # Once in training, once in the attacks: as soon as the first file of each is there. A cache
    # of its own leaves what follows to be compiled when the signal comes.
    for kept in ("*.safetensors", "evaluate-linf/*.npz"):
        process = start(tmp_path / "cache", tmp_path / "broken", *args)
        while not list(state.glob(kept)) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 130, errors
        assert "goes on from there" in errors
        assert "Traceback" not in errors
    assert (
        not (tmp_path / "broken" / "out.json").exists()
        or not without_times(tmp_path / "broken" / "out.json")["complete"]
    )
    process = start(cache, tmp_path / "broken", *args)
    assert process.wait(300) == 0, process.stderr.read()
    assert without_times(tmp_path / "broken/out.json") == without_times(tmp_path / "whole/out.json")


@pytest.mark.slow
def test_distance_prints_writes_and_goes_on(call, weights, tmp_path):
    args = (
        "distance --data digits --model",
        weights,
        "--examples 12 --norm l1 --effort fast --lanes 4 --json found.json",
    )
    result = call(*args)
    assert result.exit_code == 0, result.output
    assert "Smallest distance of 12 images" in result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["norm"] for one in found["found"]] == ["l1"]
    for one in found["found"]:
        distances = [image["distance"] for image in one["images"]]
        assert one["found"] == one["attacked"]
        assert one["forward"] + one["backward"] <= 401
        quantile = np.quantile([d for d in distances if d], 0.5, method="inverted_cdf")
        assert one["quantiles"]["0.5"] == quantile
        for epsilon, accuracy in zip(one["epsilons"], one["robust_accuracy"], strict=True):
            assert accuracy == np.mean([d > epsilon for d in distances])
    page = (tmp_path / "jaxadv-results/distance/report.html").read_text()
    assert page.count("<img") >= 2 + 12
    again = call(*args)
    assert "nothing was left to do" in again.output
    assert json.loads((tmp_path / "found.json").read_text()) == found


@pytest.mark.slow
def test_two_efforts_are_set_against_one_another(call, weights, tmp_path):
    result = call(
        "distance --data digits --model",
        weights,
        "--examples 6 --norm l2 --effort fast,standard --json found.json",
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["found"]] == ["l2 fast", "l2 standard"]
    (pair,) = found["pairs"]
    assert pair["names"] == ["l2 fast", "l2 standard"] and pair["neither"] == 0
    assert pair["first"] + pair["second"] + pair["level"] == pair["compared"]
    assert "One against another" in (tmp_path / "jaxadv-results/distance/report.html").read_text()


def test_distance_says_what_is_not_known(call):
    result = call("distance --effort best")
    assert result.exit_code == 2
    assert "effort='best'" in result.output + result.stderr


SWEEP = """
examples = 20
epsilons = {linf = [0.05, 0.1]}
data = [{name = "digits"}]
models = [{load = "fc.safetensors"}]
attacks = [{name = "FGSM"}]
"""


@pytest.mark.slow
def test_a_sweep_from_plan_to_store(call, weights, tmp_path):
    (tmp_path / "fc.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "grid.toml").write_text(SWEEP)
    planned = call("sweep grid.toml --dry-run --json plan.json")
    assert planned.exit_code == 0, planned.output
    assert "2 cells, 40 rows, of which 0" in planned.output
    assert json.loads((tmp_path / "plan.json").read_text())["groups"][0]["passes"] == 3
    assert not (tmp_path / "grid-store").exists()
    ran = call("sweep grid.toml --json ran.json")
    assert ran.exit_code == 0, ran.output
    assert json.loads((tmp_path / "ran.json").read_text())["rows"] == 40
    rows = ja.SweepStore(tmp_path / "grid-store").rows()
    assert rows.num_rows == 40
    assert "nothing was left to do" in call("sweep grid.toml").output
    assert "of which 40 are in" in call("sweep grid.toml --dry-run").output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("FGSM", "FGSN", "grid.toml, line 6: attacks: attack 'FGSN' is not known"),
        ("examples = 20", "examples = 0", "grid.toml, line 2: examples: Input should be"),
        ("fc.safetensors", "no.safetensors", "no.safetensors"),
        ('"digits"', '"digit"', "'digit' is not known"),
    ],
)
def test_a_wrong_sweep_is_one_line(call, weights, tmp_path, old, new, said):
    (tmp_path / "fc.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "grid.toml").write_text(SWEEP.replace(old, new))
    result = call("sweep grid.toml")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert said in result.stderr


@pytest.fixture
def untrained(monkeypatch):
    """Nothing is trained, and no images are sent through a network."""

    def begun(*_, **__):
        raise AssertionError("the work has begun")

    asking = ["engine.session.predict", "certification.smoothing.predict"]
    for place in ("models.train.train", "sweep.training.train", "engine.run.run_chunk", *asking):
        monkeypatch.setattr(f"jaxadv.{place}", begun)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("evaluate --epsilon 8", "did you mean 8/255?"),
        ("evaluate --epsilon 0.1,300", "exceeds 1"),
        ("evaluate --epsilon=-0.1", "'-0.1' is negative"),
        ("evaluate --norm l2 --epsilon 8.1", "exceeds 8"),
        ("evaluate --attacks best", "attacks='best'"),
        ("evaluate --norm l0 --attacks fast", "norm='l0'"),
        ("evaluate --output file", "file is a file"),
        ("evaluate --output file/folder", "file is a file"),
        ("evaluate --json file/out.json", "file is a file"),
        ("evaluate --seed 99999999999999999999", "--seed"),
        ("evaluate --model vit", "do not divide into patches"),
        ("evaluate --model ./file", "file is a file of another form"),
        ("evaluate --model fc --mean 0.5 --std 0.5", "--mean is for a model of yours"),
        ("evaluate --model fc.safetensors --bounds 1", "--bounds 1: pass the least"),
        ("evaluate --model fc.safetensors --mean 0.5", "pass both"),
        ("evaluate --model there.py:net", "there.py does not exist"),
        ("evaluate --model net.txt", "net.txt does not exist: pass a file"),
        ("evaluate --model fc.safetensors --epochs 2", "--epochs 2 is for"),
        ("evaluate --model fc.safetensors --epsilon 8", "did you mean 8/255?"),
        ("evaluate --data none/none.npz", "does not exist"),
        ("attack PGD --epsilon -0.1", "'-0.1' is negative"),
        ("attack PGD --epsilon=-8/255", "'-8/255' is negative"),
        ("attack PGD --epsilon nan", "'nan' is not a number"),
        ("attack PGD --epsilon inf", "'inf' is not finite"),
        ("attack PGD --epsilon 8/0", "divides by zero"),
        ("attack PGD --epsilon 8/255/2", "more than one slash"),
        ("attack PGD --epsilon ''", "is empty"),
        ("attack PGD --epsilon 8", "did you mean 8/255?"),
        ("attack DDN --epsilon 9", "exceeds 8"),
        ("attack DDN --norm linf", "DDN knows l2"),
        ("attack Spatial --epsilon 0.1", "bounded by its rotation"),
        ("attack PGD --epsilon 0.1 --set steps=x", "pass an integer"),
        ("attack PGD --epsilon 0.1 --set step_size=nan", "step_size=nan"),
        ("attack PGD --epsilon 0.1 --steps 3 --set steps=4", "given twice"),
        ("attack APGD --epsilon 0.1 --set targets=3 --targeted", "targets=3"),
        ("attack ILA --epsilon 0.1", "ILA is not for the command line"),
        ("attack PGD --epsilon 0.1 --save file/a.npz", "file is a file"),
        ("attacks --markdown file", "file is a file"),
        ("distance --effort best", "effort='best'"),
        ("distance --norm l2,l7", "norm='l7'"),
        ("distance --output file", "file is a file"),
        ("check --epsilon 8", "did you mean 8/255?"),
        ("certify --sigma -1", "is negative"),
        ("certify --alpha 2", "--alpha 2"),
        ("certify --noise 0.5 --model fc.safetensors", "--noise is for"),
        ("certify --output file", "file is a file"),
        ("queries --epsilon 8", "did you mean 8/255?"),
        ("queries --attack PGD", "needs gradients"),
        ("queries --attack NES --budget 5", "budget=5"),
        ("survival --epsilon 8", "did you mean 8/255?"),
        ("survival --attack PGD,zork", "'zork' is not known"),
        ("survival --attack PGD,ILA", "ILA is not for the command line"),
        ("universal --epsilon 8", "did you mean 8/255?"),
        ("universal --epsilon 0", "above 0"),
        ("universal --norm l1", "norm='l1'"),
        ("universal --target 10", "classes 0 to 9"),
        ("safety --effort best", "effort='best'"),
        ("train --epsilon 8", "did you mean 8/255?"),
        ("train --epsilon 0.1 --norm l7", "norm='l7'"),
        ("train --beta 3", "--beta 3 is not for --method standard"),
        ("train --steps 3", "--steps 3 is not for --method standard"),
        ("train --batch-size 100000", "batch_size=100000"),
        ("train --learning-rate 0", "learning_rate=0"),
        ("train --output file/fc.safetensors", "file is a file"),
        ("train --data digits:val", "split='val'"),
        ("reproduce survival --output file", "file is a file"),
        ("report store --output file", "file is a file"),
        ("sweep grid.toml --store file", "file is a file"),
        ("sweep grid.toml --cpus-per-job 2", "are for --ray"),
    ],
)
def test_arguments_are_checked_before_the_work(call, weights, untrained, tmp_path, line, said):
    (tmp_path / "fc.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "grid.toml").write_text(SWEEP)
    (tmp_path / "file").write_text("")
    command, *rest = shlex.split(line)
    takes_data = command not in ("attacks", "report", "sweep") and "--data" not in rest
    result = call(line, "--data digits" if takes_data else "")
    assert result.exit_code == 2, result.output
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    assert said in result.stderr


@pytest.mark.parametrize(
    ("models", "attacks", "said"),
    [
        ('{train = "fc"}', '{name = "FGSM"}, {name = "PGD", epsilons = [8]}', "8/255"),
        ('{train = "fc"}', '{name = "FGSM"}, {name = "fast", epsilons = [2]}', "exceeds 1"),
        ('{train = "fc"}', '{name = "FGSM"}, {name = "PGD", epsilons = ["-1"]}', "is negative"),
        ('{train = "fc"}', '{name = "FGSM"}, {name = "DDN", norm = "l1"}', "DDN knows l2"),
        (
            '{train = "fc"}',
            '{name = "FGSM"}, {name = "APGD", targets = 3, goal = "next"}',
            "targets=3",
        ),
        (
            '{train = "fc"}',
            '{name = "DDN", norm = "l2", epsilons = [1]}, {name = "FGSM"}',
            "takes none",
        ),
        ('{train = "fc"}', '{name = "PGD", steps = [3, 3]}', "twice"),
        ('{train = "fc"}, {load = "none.safetensors"}', '{name = "FGSM"}', "does not exist"),
        ('{train = "fc"}, {train = "vit"}', '{name = "FGSM"}', "do not divide into patches"),
        ('{train = "fc"}, {load = "none"}', '{name = "FGSM"}', "none does not exist: pass a file"),
        ('{train = "fc", train_seed = 9999999999}', '{name = "FGSM"}', "train_seed"),
    ],
)
def test_a_sweep_is_refused_before_its_first_training(
    call, untrained, tmp_path, models, attacks, said
):
    (tmp_path / "grid.toml").write_text(
        f'epsilons = {{linf = [0.1]}}\ndata = [{{name = "digits"}}]\n'
        f"models = [{models}]\nattacks = [{attacks}]"
    )
    result = call("sweep grid.toml")
    assert result.exit_code == 2, result.output
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    assert said in result.stderr


def test_a_pattern_that_matches_no_cell_is_refused_before_the_first_training(
    call, untrained, tmp_path
):
    grid = SWEEP.replace('load = "fc.safetensors"', 'train = "fc"')
    (tmp_path / "grid.toml").write_text(grid)
    assert "matches no cell" in call("sweep grid.toml --only none").stderr


@pytest.mark.parametrize(
    "command", ["evaluate", "distance", "certify", "queries", "survival", "universal", "safety"]
)
def test_what_writes_the_report_is_missed_before_the_work(call, untrained, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = call(command, "--data digits")
    assert result.exit_code == 2
    assert 'pip install "jaxadv[demo]"' in result.stderr


def test_the_folder_of_an_output_is_made(call, tmp_path):
    assert call("attacks --json new/folder/attacks.json").exit_code == 0
    assert (tmp_path / "new/folder/attacks.json").is_file()


@pytest.mark.parametrize("width", [30, 50, 80])
def test_no_table_cuts_a_heading_or_a_number(width):
    out, levels = io.StringIO(), [8 / 255, *np.linspace(0.11, 0.19, 6)]
    attack = {
        "name": "PGD cross-entropy",
        "control": False,
        "rows": 12345,
        "successes": 6789,
        "median_distance": 0.1234,
        "forward": 1234.5,
        "backward": 4321.5,
        "seconds": 98765.4,
        "accuracy_left": [1.0] * 7,
        "broken": [0.999] * 7,
        "rejected": {},
    }
    data = {
        "norm": "linf",
        "epsilons": levels,
        "examples": 9000,
        "total": 9000,
        "complete": True,
        "clean_accuracy": 1.0,
        "false_rejections": None,
        "robust_accuracy": [0.001] * 7,
        "robust_bounds": None,
        "certified_accuracy": None,
        "attacks": [attack],
        "median_distance": 0.1,
        "messages": [],
    }
    print_report(data, Console(file=out, width=width))
    words = out.getvalue().split()
    assert max(map(len, out.getvalue().splitlines())) <= width
    headings = ["attack", "runs", "broke", "median", "distance", "forward", "backward", "8/255"]
    numbers = ["12,345", "6,789", "0.123", "1,234", "4,322", "98765.4"]
    for whole in [*headings, "cross-entropy", *numbers]:
        assert whole in words
    for value, times in (("100.0", 14), ("-99.9", 7), ("0.1", 7), ("ε", 7)):
        assert words.count(value) >= times


@pytest.mark.slow
def test_prove_prints_both_sides(call, weights, tmp_path):
    command = (
        "prove --data digits --model",
        weights,
        "--examples 6 --epsilon 0.02,0.01 --effort fast --json out.json --output out",
    )
    result = call(*command)
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "out.json").read_text())
    assert [found["epsilon"] for found in data["found"]] == [0.01, 0.02]
    for found in data["found"]:
        assert 0 < found["proved"] <= found["not_broken"] <= 1
        assert sum(found["images_by_verdict"].values()) == len(found["images"]) == 6
        for image in found["images"]:
            assert image["verdict"] != "PROVED" or 0 < image["lower"] <= image["upper"]
        assert f"{100 * found['proved']:.1f}" in result.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<b>proved</b>") == sum(
        found["images_by_verdict"]["PROVED"] for found in data["found"]
    )
    again = call(*command)
    assert "nothing was left to do" in again.output
    second = json.loads((tmp_path / "out.json").read_text())
    assert [found["images"] for found in second["found"]] == [
        found["images"] for found in data["found"]
    ]
    assert "effort='most'" in call("prove --data digits --effort most --model", weights).stderr
    refused = call("evaluate --data digits --prove fast --norm l0 --model", weights)
    assert "norm='l0'" in refused.stderr


@pytest.mark.slow
def test_survival_prints_what_it_writes(call, weights, tmp_path):
    args = (
        "survival --model",
        weights,
        "--data digits --examples 12 --attack FGSM --epsilon 0.3 --transform jpeg",
        "--json copy.json",
    )
    result = call(*args)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "jaxadv-results" / "survival"
    data = json.loads((folder / "report.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == data
    table = next(part for part in data["parts"] if part["kind"] == "table")
    assert table["rows"] == [f"JPEG, quality {q}" for q in (95, 75, 50, 25)]
    values = np.array(table["values"], float)  # null becomes nan
    assert (values[:, 3] <= values[:, 2]).all()  # who knows the transform does no worse
    assert (values[:, 2] <= values[:, 0]).all()
    page = (folder / "report.html").read_text()
    for words in ("JPEG, quality 75", "adaptive attack", "data:image/png", "data:image/svg"):
        assert words in page
    for words in ("survived", f"{values[1, 1]:.1f}", "report.html"):
        assert words in result.stdout
    (kept,) = folder.rglob("runs")
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*.npz")}
    assert len(before) == 5
    assert call(*args).stdout == result.stdout
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.npz")} == before
    wrong = call("survival --transform zork")
    assert wrong.exit_code == 2 and "JPEG, blur, foveated, noise" in wrong.stderr


def test_queries_prints_what_it_counted(call, weights, tmp_path):
    args = (
        "queries --data digits --model",
        weights,
        "--attack Square --budget 60 --examples 20 --epsilon 0.2 --json found.json",
    )
    result = call(*args)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "found.json").read_text()
    (square,) = json.loads(text)["attacks"]
    attacked = [image for image in square["images"] if image["status"] != "MISCLASSIFIED"]
    heard = [image["queries"] for image in attacked if image["success"]]
    assert square["attacked"] == len(attacked)
    assert square["success"]["60"] == len(heard) / len(attacked)
    assert (square["median"], square["mean"]) == (np.median(heard), pytest.approx(np.mean(heard)))
    assert all(image["queries"] <= 60 for image in attacked)
    assert all(image["distance"] <= 0.2 for image in attacked if image["success"])
    assert "nothing was left to do" in call(*args).output
    assert (tmp_path / "found.json").read_text() == text


@pytest.mark.slow
def test_safety_says_how_near_the_classes_are(call, weights, tmp_path):
    result = call("safety --data digits --model", weights, "--each 1 --json found.json")
    assert result.exit_code == 0, result.output
    _, matrix, _, _, _, _, local = json.loads((tmp_path / "found.json").read_text())["parts"]
    near = np.array(matrix["values"], float)
    assert np.isnan(near.diagonal()).all()
    # A layer of ReLU stretches no distance by more than the norms of its matrices.
    arrays, _ = read_arrays(weights)
    first, last = arrays["params/fc1/kernel"], arrays["params/fc2/kernel"]
    data = ja.load_data("digits", "test")
    hidden = np.maximum(data.images.reshape(-1, 64) @ first + arrays["params/fc1/bias"], 0)
    logits = hidden @ last + arrays["params/fc2/bias"]
    for label, to in np.argwhere(~np.eye(10, dtype=bool)):
        right = (data.labels == label) & (logits.argmax(1) == label)
        gap = (logits[right, label] - logits[right, to]).min()
        stretch = np.linalg.norm(first, 2) * np.linalg.norm(last[:, label] - last[:, to])
        assert near[label, to] >= gap / stretch
    for row, worst in zip(near, np.array(local["values"], float)[:10, 2], strict=True):
        epsilon = float(local["columns"][2].split("=")[1])
        if not 0.99 < np.nanmin(row) / epsilon < 1.01:
            assert worst == (0 if np.nanmin(row) < epsilon else 100)


def test_a_closed_pipe_does_not_end_a_command():
    code = """
import os, sys
from jaxadv.cli.setting import console
results = console()
results.print("read")
sys.stdin.read()  # until nobody reads any more
results.print("unread")
results.print("unread")
os.write(2, b"went on")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True
    )
    assert process.stdout.readline() == "read\n"
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == "went on"
    assert process.wait() == 0
