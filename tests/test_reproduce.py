"""`jaxadv reproduce`: what it lists, runs, keeps, takes up again, writes and refuses."""

import json
import os
import re
import signal
import sys
import types
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxadv as ja
from jaxadv.cli.reproduce import choose_data, mixed
from jaxadv.core.result import Status
from jaxadv.studies import EXPERIMENTS, Findings, Gallery, Setting, Table, Text
from jaxadv.studies.times import duration
from tests.commands import run_command

SIZE = 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def calls(monkeypatch):
    """Two families of experiments, and the settings that each was called with."""
    seen: dict[str, list[Setting]] = {"counts": [], "pictures": [], "other": []}

    def counts(setting: Setting) -> Findings:
        """How many images there are."""
        seen["counts"].append(setting)
        for done in range(3):
            setting.progress("counting", done, 3)
        values = [[len(setting.train.labels), len(setting.test.labels)]]
        table = Table(
            "Counts",
            ("images",),
            ("train", "test"),
            values,
            published=[[60000, np.nan]],
            formats="d",
        )
        return Findings("paper.counts", "Counting", [table, Text("So many.")])

    def pictures(setting: Setting) -> Findings:
        """Some of the images.

        And more about it.
        """
        seen["pictures"].append(setting)
        return Findings("paper.pictures", "Looking", [Gallery("G", setting.test.images[None, :3])])

    def other(setting: Setting) -> Findings:
        """Something else."""
        seen["other"].append(setting)
        return Findings("papers", "Other", [])

    module = types.SimpleNamespace(counts=counts, pictures=pictures, other=other)
    monkeypatch.setitem(sys.modules, "jaxadv.studies.example", module)
    monkeypatch.setattr(
        "jaxadv.studies.EXPERIMENTS",
        {
            "paper.counts": "example:counts",
            "paper.pictures": "example:pictures",
            "papers": "example:other",
        },
    )
    seen["module"] = module
    return seen


@pytest.fixture
def call(calls, cache, tmp_path, monkeypatch):
    """Run the command line in this process, which keeps its own devices and configuration."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unused")
    monkeypatch.setenv("JAXADV_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return lambda line="": run_command("reproduce", line)


def test_experiments_are_listed_with_what_they_are(call, tmp_path):
    result = call("--list --json list.json")
    assert result.stdout.splitlines() == [
        "paper.counts    How many images there are.",
        "paper.pictures  Some of the images.",
        "papers          Something else.",
    ]
    assert json.loads((tmp_path / "list.json").read_text())["papers"] == "Something else."
    assert len(call("paper --list").stdout.splitlines()) == 2


def test_every_registered_experiment_is_there_and_described():
    from jaxadv.studies import study

    for name in EXPERIMENTS:
        assert study(name).__doc__, name


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("zork", "paper.counts, paper.pictures, papers"),
        ("pape", "paper.counts, paper.pictures, papers"),
        ("", "pass the NAME of an experiment: paper.counts, paper.pictures, papers"),
        ("paper --seeds 0", "--seeds"),
        ("paper --examples 0", "--examples"),
        ("paper --data zork", "zork"),
        ("paper --data-dir nowhere", "mnist"),
        ("paper --json .", "is a folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(call, line, words):
    result = call(line)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr)
    assert words in result.stderr


def test_a_family_runs_and_then_only_reads(call, calls, tmp_path):
    line = "paper --data digits --json copy.json"
    first = call(line)
    assert first.exit_code == 0, first.output
    folder = tmp_path / "jaxadv-results"
    data = json.loads((folder / "paper.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == data
    assert [study["name"] for study in data["experiments"]] == ["paper.counts", "paper.pictures"]
    assert data["experiments"][0]["parts"][0]["values"] == [[1437, 360]]
    assert data["experiments"][0]["parts"][0]["published"] == [[60000, None]]
    assert (data["seeds"], data["examples"], data["quick"]) == (3, 360, False)
    page = (folder / "paper.html").read_text()
    for words in ("Counting", "Looking", "1437", "60000", "data:image/png", "<dd>digits</dd>"):
        assert words in page
    assert "data: digits, 1,437 training and 360 test images (as asked for)" in first.stdout
    for words in ("Counts", "1437", "So many.", "paper.html", "paper.json"):
        assert words in first.stdout
    second = call(line)
    assert second.stdout == first.stdout
    assert json.loads((folder / "paper.json").read_text()) == data
    assert [len(calls[name]) for name in ("counts", "pictures", "other")] == [1, 1, 0]
    call(f"{line} --fresh")
    assert [len(calls[name]) for name in ("counts", "pictures", "other")] == [2, 2, 0]


def test_the_time_is_said_before_an_experiment_begins(call, calls, monkeypatch):
    monkeypatch.setattr("jaxadv.studies.times.SECONDS", {"paper.counts": 300})
    line = "paper --data digits --quick --seeds 2 --examples"
    first = call(f"{line} 200")  # twice the images that were timed
    assert "paper.counts: about 10 minutes on two cores; Ctrl-C keeps" in first.stderr
    assert "paper.pictures: not timed; quick runs of other experiments" in first.stderr
    assert "minutes" not in call(f"{line} 200").stderr  # it is stored
    longer = call("paper --data digits --seeds 4 --examples 100")
    assert "at least 10 minutes on two cores (2 times the networks" in longer.stderr


def test_durations_in_words():
    assert [duration(s) for s in (20, 150, 7000, 9000)] == [
        "a minute",
        "2 minutes",
        "117 minutes",
        "2 hours",
    ]


def test_one_experiment_takes_the_options(call, calls, tmp_path):
    result = call("paper.counts --data digits --seeds 5 --examples 7 --quick --output out")
    assert result.exit_code == 0, result.output
    (setting,) = calls["counts"]
    assert (setting.seeds, setting.examples, setting.quick) == (5, 7, True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "paper.counts.html",
        "paper.counts.json",
        "state",
    ]
    assert tmp_path / "out" in setting.folder.resolve().parents
    call("paper.counts --data digits --seeds 5 --output out")
    call("paper.counts --data digits --seeds 5 --examples 7 --quick --output out")
    assert len(calls["counts"]) == 2  # the long run did not replace what the quick one kept


def test_networks_and_radius_reach_the_experiment(call, calls, tmp_path):
    (tmp_path / "net.py").write_text(
        "import jax.numpy as jnp\n"
        "def mean(images):\n"
        "    return images.reshape(len(images), -1) @ jnp.eye(64, 10)\n"
    )
    line = "paper.counts --data digits --quick"
    first = call(f"{line} --model lenet --model FC10(1) --epsilon 8/255 --json copy.json")
    assert first.exit_code == 0, first.output
    here = calls["counts"][0]
    assert [given.name for given in here.networks] == ["LeNet", "FC10(1)"]
    assert here.epsilon == 8 / 255 and here.seeds == 2
    data = json.loads((tmp_path / "copy.json").read_text())
    assert (data["models"], data["epsilon"]) == ("LeNet, FC10(1)", "8/255")
    assert call(f"{line} --model net.py:mean").exit_code == 0
    (given,) = calls["counts"][1].networks
    assert given.name == "mean" and calls["counts"][1].seeds == 1
    call(f"{line} --model net.py:mean")
    assert len(calls["counts"]) == 2  # it is stored
    for options, words in (
        ("--model zork", "'zork' is not known"),
        ("--model lenet --model LeNet", "pass each network once"),
        ("--model net.py:mean --seeds 2", "leave --seeds out"),
        ("--model there/net.onnx", "does not exist"),
        ("--epsilon 0", "pass a radius above 0"),
    ):
        wrong = call(f"{line} {options}")
        assert wrong.exit_code == 2 and words in wrong.stderr, options


def test_the_data_are_mnist_where_it_is_and_the_embedded_digits_elsewhere(
    cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("JAXADV_CACHE", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert choose_data("cifar10", None, True) == ("cifar10", "as asked for")
    name, why = choose_data(None, None, False)
    assert name == "mnist5k"
    assert "MNIST is not here" in why
    assert choose_data(None, None, True)[0] == "mnist5k"
    assert choose_data(None, tmp_path, True)[0] == "mnist"  # whoever names its folder means it


def test_mnist_is_found_in_the_cache(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXADV_CACHE", str(tmp_path))
    (tmp_path / "mnist").symlink_to(shared / "data" / "mnist")
    assert choose_data(None, None, False) == ("mnist", "found here")


def test_sorted_sets_are_mixed_and_others_left_alone():
    digits = ja.load_data("digits", "test")
    assert mixed(digits) is digits
    data = digits.take(np.argsort(digits.labels))
    order = mixed(data)
    assert set(order.labels[:40]) == set(range(10))
    assert sorted(order.ids) == sorted(data.ids)
    rows = {int(i): image for i, image in zip(data.ids, data.images, strict=True)}
    assert all((rows[int(i)] == x).all() for i, x in zip(order.ids, order.images, strict=True))


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_interrupted_it_keeps_what_is_finished_and_goes_on(call, calls, tmp_path, monkeypatch):
    whole = calls["module"].pictures

    def stopped(setting: Setting) -> Findings:
        press()
        raise AssertionError("Ctrl-C came late")

    calls["module"].pictures = stopped
    first = call("paper --data digits")
    assert first.exit_code == 130
    assert "the same command goes on from there" in first.stderr
    assert "Traceback" not in first.output
    assert not (tmp_path / "jaxadv-results" / "paper.html").exists()
    calls["module"].pictures = whole
    second = call("paper --data digits")
    assert second.exit_code == 0, second.output
    assert [len(calls[name]) for name in ("counts", "pictures")] == [1, 1]


def test_a_ctrl_c_that_a_callback_swallowed_is_honoured(call, calls):
    def deaf(setting: Setting) -> Findings:
        with suppress(KeyboardInterrupt):
            press()
        setting.progress("next", 0, 1)
        raise AssertionError("not heard")

    calls["module"].pictures = deaf
    assert call("paper.pictures --data digits").exit_code == 130


def test_a_part_of_an_attack_is_never_taken_for_the_whole(tmp_path):
    images = np.random.default_rng(0).uniform(size=(SIZE, 2, 2, 1)).astype("float32")
    data = ja.data.Dataset(images, np.zeros(SIZE, "int32"), np.arange(SIZE), "noise", ("a", "b"))
    weights = jnp.array([[1.0, -1], [1, -1], [-1, 1], [1, -1]])
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    goal = ja.Untargeted(np.asarray(model(images)).argmax(1))
    pressed = []

    def progress(stage: str, done: int, total: int) -> None:
        if not pressed and done < total:
            pressed.append(done)
            press()

    setting = Setting(data, data, tmp_path, progress=progress)
    how = {"lanes": 1, "devices": jax.devices()[:1], "chunk": 8}
    attack = ja.PGD(steps=5)
    with pytest.raises(KeyboardInterrupt):
        setting.run("attack", attack, model, images, goal, 0.3, **how)
    assert pressed and pressed[0] < SIZE
    assert not list(tmp_path.rglob("*.npz"))
    found = setting.run("attack", attack, model, images, goal, 0.3, **how)
    assert (found.status != Status.NOT_RUN).all()
    whole = ja.run(attack, model, images, goal, 0.3, key=jax.random.key(0), **how)
    np.testing.assert_array_equal(found.images, whole.images)
    kept = setting.run("attack", attack, model, images, goal, 0.3, **how)
    np.testing.assert_array_equal(kept.images, whole.images)
