"""What is read out of a sweep's store, against other readers and stores with known answers."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxadv as ja
from jaxadv.report import sweep_as_robustbench, sweep_data, write_sweep
from jaxadv.sweep import SCHEMA, SweepStore, compare_stores, parse_grid, read_cells
from jaxadv.sweep.leaderboard import median_of
from jaxadv.sweep.names import Job
from jaxadv.sweep.store import FORMAT, ORIGINALS
from tests.commands import run_command

CHROMIUM = Path("/usr/bin/chromium")
IMAGES = 270  # more than one file of originals holds
INF = math.inf


def cell(attack="PGD", epsilon=0.1, seed=0, success=(), distance=None, **more):
    """One cell of four images 10 to 13, of which the last is misclassified."""
    return {
        "model": "net",
        "data": "set",
        "attack": attack,
        "norm": "linf",
        "goal": "untargeted",
        "epsilon": epsilon,
        "seed": seed,
        "success": success,
        "distance": distance or {},
        "ids": (10, 11, 12, 13),
        "wrong": (13,),
        "passes": 5,
        "missing": False,
        "mark": None,
        "software": "1",
        **more,
    }


def columns(one, mark):
    """A job's columns: that cell's rows, image by image."""
    ids = np.array(one["ids"])
    wrong = np.isin(ids, one["wrong"])
    won = np.isin(ids, one["success"]) | wrong
    distance = [
        0.0 if w else one["distance"].get(i, one["epsilon"]) if s else None
        for i, w, s in zip(ids.tolist(), wrong, won, strict=True)
    ]
    status = np.where(wrong, "MISCLASSIFIED", np.where(won, "SUCCESS", "FAILED"))
    count = len(ids)
    found = {
        "cell": [mark] * count,
        "id": ids,
        "label": np.zeros(count, np.int32),
        "success": won,
        "prediction": wrong.astype(np.int32),
        "target": [None] * count,
        "status": status.tolist(),
        "broken_by": [one["attack"] if w else None for w in won],
        "distance": distance,
        "margin": np.where(won, -1, 1).astype(np.float32),
        "success_8bit": [None] * count,
        "forward": [one["passes"]] * count,
        "backward": [one["passes"] - 1] * count,
        "queries": [one["passes"]] * count,
        "seconds": [0.25] * count,
        "lanes": [8] * count,
        **dict.fromkeys(("linf", "l2", "l1", "l0"), distance),
        **{name: [value] * count for name, value in about(one).items()},
        **{name: [one[name]] * count for name in ("epsilon", "seed")},
    }
    return {name: found[name] for name in SCHEMA.names}


def about(one):
    hashes = {
        f"{n}_hash": f"{one.get(f'{n}_hash', one[n])}-hash"
        for n in ("model", "data", "attack", "software")
    }
    names = {name: one[name] for name in ("model", "data", "attack", "norm", "goal")}
    return {**names, **hashes, "software": f"jax {one['software']}"}


def fabricate(folder, *cells):
    """A store with those cells, each a job."""
    store = SweepStore(folder)
    manifest = {"format": FORMAT, "groups": {}, "cells": {}, "jobs": {}, "sweeps": []}
    jobs = []
    for number, one in enumerate(cells):
        mark, group = one["mark"] or f"cell{number}", f"group{number}"
        job = Job(f"job{number}", group, (mark,), 0, len(one["ids"]))
        manifest["groups"][group] = {**about(one), "lanes": 8}
        manifest["cells"][mark] = {"group": group, "epsilon": one["epsilon"], "seed": one["seed"]}
        manifest["jobs"][job.fingerprint] = {
            "group": group,
            "cells": [mark],
            "begin": 0,
            "end": job.end,
        }
        jobs.append((job, one, mark))
    (store.folder).mkdir(parents=True, exist_ok=True)
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    for job, one, mark in jobs:
        if not one["missing"]:
            store.save(job, columns(one, mark))
    return store


def levels(store, norm="linf"):
    (standing,) = sweep_data(store)["standings"]
    return {level["epsilon"]: level for level in standing["norms"][norm]["levels"]}


# ---- the rule of the leaderboard ------------------------------------------------------------


def test_every_attack_seed_and_smaller_epsilon_counts(tmp_path):
    store = fabricate(
        tmp_path,
        cell(epsilon=0.1, seed=0, success=[10]),
        cell(epsilon=0.1, seed=1),
        cell(epsilon=0.2, seed=0),  # 10 survives the larger radius: it was broken at the smaller
        cell(epsilon=0.2, seed=1, success=[11]),
        cell("FMN", None, distance={12: 0.15}, success=[12], passes=50),
    )
    found = levels(store)
    assert {e: level["count"] for e, level in found.items()} == {0.1: 2, 0.2: 0}
    assert {level["images"] for level in found.values()} == {4}
    assert found[0.1]["worst_attack"] == "PGD"
    assert found[0.2]["worst_attack"] == "PGD"
    assert found[0.2]["worst_accuracy"] == 1 / 4
    assert not any(level["upper_bound"] for level in found.values())
    (standing,) = sweep_data(store)["standings"]
    assert standing["clean"]["value"] == 3 / 4
    pgd, fmn = standing["norms"]["linf"]["attacks"]
    assert pgd["curve"]["accuracy"] == [3 / 4, 2 / 4, 1 / 4]
    assert dict(zip(fmn["curve"]["epsilon"], fmn["curve"]["accuracy"], strict=True)) == {
        0.0: 3 / 4,
        0.15: 2 / 4,
        0.2: 2 / 4,
    }
    assert fmn["median_distance"] is None  # of 10, 11 and 12 one was found
    assert [(c["epsilon"], c["count"], c["images"], c["median_passes"]) for c in pgd["cost"]] == [
        (0.1, 1, 3, 9),
        (0.2, 2, 3, 9),
    ]


def test_a_distance_equal_to_epsilon_breaks_and_the_cheapest_of_equals_is_named(tmp_path):
    store = fabricate(
        tmp_path,
        cell(epsilon=0.1, passes=50),
        cell("FMN", None, distance={11: 0.1}, success=[11], passes=9),
        cell("DDN", None, distance={11: 0.1}, success=[11], passes=7),
    )
    assert levels(store)[0.1]["count"] == 2
    assert levels(store)[0.1]["worst_attack"] == "DDN"


def test_goals_are_attacks_of_their_own_and_count_together(tmp_path):
    store = fabricate(tmp_path, cell(), cell(goal="next", success=[10]))
    (standing,) = sweep_data(store)["standings"]
    part = standing["norms"]["linf"]
    assert [attack["title"] for attack in part["attacks"]] == ["PGD", "PGD (next)"]
    assert part["levels"][0]["count"] == 2


def test_models_and_their_hashes_are_kept_apart(tmp_path):
    store = fabricate(
        tmp_path,
        cell(),
        cell(model="other", success=[10]),
        cell(model_hash="retrained", success=[10, 11]),
    )
    counts = [one["norms"]["linf"]["levels"][0]["count"] for one in sweep_data(store)["standings"]]
    assert counts == [3, 2, 1]


def test_where_all_are_minimum_norm_attacks_round_numbers_are_chosen(tmp_path):
    distance = {10: 0.1234, 11: 0.2345, 12: 0.3456}
    store = fabricate(tmp_path, cell("FMN", None, distance=distance, success=[*distance]))
    found = levels(store)
    assert len(found) == 4
    for epsilon, level in found.items():
        assert epsilon == float(f"{epsilon:.2g}")
        assert level["count"] == sum(d > epsilon for d in distance.values())


@pytest.mark.parametrize(("count", "images"), [(0, 4), (1, 4), (4, 4), (57, 100), (9_999, 10_000)])
def test_intervals_are_wilsons(count, images):
    from jaxadv.sweep.leaderboard import Share

    low, high = Share(count, images).interval
    inside = [bound for bound in (low, high) if 1e-12 < bound < 1 - 1e-12]
    for bound in inside:  # the roots of (p - share)^2 = z^2 p (1 - p) / n
        spread = 1.959964**2 * bound * (1 - bound) / images
        assert math.isclose((bound - count / images) ** 2, spread, rel_tol=1e-9)
    assert low - 1e-12 <= count / images <= high + 1e-12


def test_medians_of_counted_numbers():
    values = np.random.default_rng(0).integers(0, 30, 101)
    for length in (1, 2, 100, 101):
        numbers, counts = np.unique(values[:length], return_counts=True)
        tally = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        assert median_of(tally) == np.median(values[:length])


def test_what_is_missing_is_said_and_bounds_are_marked(tmp_path):
    store = fabricate(
        tmp_path,
        cell(success=[10]),
        cell(epsilon=0.2, missing=True),
        cell("FMN", None, missing=True, norm="l2"),
    )
    store.fail(Job("job1", "group1", ("cell1",), 0, 4), "ValueError: <too> large")
    data = sweep_data(store)
    assert (data["rows"], data["expected"], data["complete"]) == (4, 12, False)
    assert data["failed"] == {"job1": "ValueError: <too> large"}
    found = levels(store)
    assert (found[0.1]["upper_bound"], found[0.2]["upper_bound"]) == (False, True)
    assert found[0.2]["value"] is None  # nothing was run at that radius
    assert sweep_as_robustbench(data)[0]["external"] == "50.0"
    assert len(sweep_as_robustbench(data)) == 1
    page = write_sweep(data, store, tmp_path / "pages").read_text()
    assert "This store is incomplete" in page
    assert "8 of 12 rows are missing, in 2 of 3 cells" in page
    assert page.count("job1 failed: ValueError: &lt;too&gt; large") == 2  # banner and table


def test_rows_that_are_not_those_of_the_manifest_are_not_counted(tmp_path):
    store = fabricate(tmp_path, cell(), cell(epsilon=0.2))
    path = store.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["jobs"]["job1"]["cells"] = ["cell0"]
    path.write_text(json.dumps(manifest))
    (only,) = read_cells(store)
    assert (only.count, only.expected) == (4, 8)
    del manifest["cells"]["cell0"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="does not say"):
        list(read_cells(store))


# ---- a real sweep, in several jobs ----------------------------------------------------------

GRID = """
seeds = [0, 1]
shard = 75
lanes = 8
epsilons = {linf = [0.05, 0.2], l2 = [0.3]}
data = [{name = "noise"}]
models = [{given = "smooth"}]
attacks = [
    {name = "FGSM"},
    {name = "DDN", norm = "l2", steps = 8},
]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    import jax
    import jax.numpy as jnp

    weights = jax.random.normal(jax.random.key(3), (25, 4))
    model = ja.Model(lambda w, x: jnp.tanh(x.reshape(len(x), -1) - 0.5) @ w, weights)
    images = np.asarray(jax.random.uniform(jax.random.key(1), (IMAGES, 5, 5, 1)))
    labels = np.asarray(model(images).argmax(-1)).astype(np.int32)
    labels[::7] = (labels[::7] + 1) % 4  # these are misclassified
    ids = np.arange(1000, 1000 + IMAGES, dtype=np.int32)
    data = ja.data.Dataset(images, labels, ids, "noise", ("ant", "bee", "<cat>", "dog"))
    folder = tmp_path_factory.mktemp("swept") / "store"
    assert ja.run_sweep(
        parse_grid(GRID),
        folder,
        models={"smooth": model},
        data={"noise": data},
        devices=jax.devices()[:1],
    ).complete
    return folder, data


def test_the_leaderboard_is_that_of_another_reader(swept):
    pandas = pytest.importorskip("pandas")
    folder, _ = swept
    frame = pandas.read_parquet(folder / "rows")
    right = frame.prediction == frame.label
    clean = right.groupby(frame.id).first()
    (standing,) = sweep_data(SweepStore(folder))["standings"]
    assert standing["clean"]["count"] == clean.sum()
    for norm, part in standing["norms"].items():
        mine = frame[frame.norm == norm]
        assert part["levels"]
        for level in part["levels"]:
            epsilon = level["epsilon"]
            radius = mine.success & (mine.epsilon <= epsilon)
            minimal = mine.success & mine.epsilon.isna() & (mine.distance <= epsilon)
            broken = (radius | minimal).groupby(mine.id).any()
            assert level["count"] == (clean & ~broken).sum()
            assert level["images"] == IMAGES
        for attack in part["attacks"]:
            its = mine[(mine.attack == attack["attack"]) & (mine.goal == attack["goal"])]
            its = its[its.prediction == its.label]
            for cost in attack["cost"]:
                rows = its[
                    its.epsilon.isna()
                    if cost["epsilon"] is None
                    else its.epsilon == cost["epsilon"]
                ]
                assert cost["median_passes"] == (rows.forward + rows.backward).median()
            if attack["minimal"]:
                nearest = its.groupby("id").distance.min()
                assert math.isclose(
                    attack["median_distance"], nearest.sort_values().iloc[(len(nearest) - 1) // 2]
                )


def test_cells_say_what_was_run_and_who_computed_it(swept):
    pandas = pytest.importorskip("pandas")
    folder, _ = swept
    frame = pandas.read_parquet(folder / "rows")
    data = sweep_data(SweepStore(folder))
    assert len(data["cells"]) == frame.cell.nunique()
    for one in data["cells"]:
        rows = frame[frame.cell == one["cell"]]
        right = rows.prediction == rows.label
        assert (one["rows"], one["right"]) == (len(rows), right.sum())
        assert one["success"] == (rows.success & right).sum()
        assert math.isclose(one["seconds"], rows.seconds.sum())
        assert one["statuses"] == rows.status.value_counts().to_dict()
        assert {one[name] for name in ("model_hash", "software_hash")} == {
            rows.model_hash.iloc[0],
            rows.software_hash.iloc[0],
        }
    assert data["software"] == {frame.software_hash[0]: frame.software[0]}


def test_originals_are_kept_once_and_whole(swept):
    folder, data = swept
    store = SweepStore(folder)
    (mark,) = {about["data_hash"] for about in store.manifest["groups"].values()}
    files = -(-IMAGES // ORIGINALS)
    assert files > 1
    assert len(list((folder / "originals").iterdir())) == files
    kept = [store.originals(mark, number) for number in range(files)]
    for name in ("images", "labels", "ids"):
        np.testing.assert_array_equal(np.concatenate([k[name] for k in kept]), getattr(data, name))
    assert tuple(kept[0]["classes"]) == data.classes
    assert store.originals(mark, files) is None


def test_pages_of_images(swept, tmp_path):
    import io
    from base64 import b64decode

    from matplotlib.image import imread

    folder, original = swept
    store = SweepStore(folder)
    data = sweep_data(store, examples=5)
    assert [image["id"] for image in data["images"]] == list(range(1000, 1005))
    assert {len(image["rows"]) for image in data["images"]} == {len(data["cells"])}
    write_sweep(data, store, tmp_path)
    pages = sorted((tmp_path / "images").iterdir())
    assert len(pages) == 6  # however many images there are
    page = next(page for page in pages if page.name.endswith("-1002.html")).read_text()
    assert original.classes[original.labels[2]].replace("<", "&lt;").replace(">", "&gt;") in page
    encoded = re.findall(r'base64,([\w+/=]+)" alt="(original|adversarial)"', page)
    shown = {what: imread(io.BytesIO(b64decode(code)))[..., :1] for code, what in encoded[::-1]}
    np.testing.assert_allclose(shown["original"], original.images[2], atol=0.51 / 255)
    assert shown["adversarial"].shape == (5, 5, 1)
    assert len(encoded) == 1 + page.count('alt="its change"')


def test_a_store_without_pictures_still_has_pages(tmp_path):
    store = fabricate(tmp_path / "store", cell(success=[10]))
    write_sweep(sweep_data(store, 2), store, tmp_path / "out")
    page = (tmp_path / "out/images/set-hash-10.html").read_text()
    assert "keeps no adversarial images" in page
    assert "data:image" not in page


# ---- comparing ------------------------------------------------------------------------------


def test_equal_stores_are_equal(swept, tmp_path):
    folder, _ = swept
    again = shutil.copytree(folder, tmp_path / "again")
    changes = compare_stores(SweepStore(folder), SweepStore(again))
    assert changes.equal
    assert sum(one.both for one in changes.cells) == SweepStore(folder).rows().num_rows
    assert {one.ratio for one in changes.cells if one.ratio is not None} == {1.0}


def test_a_known_difference_is_found(tmp_path):
    old = fabricate(
        tmp_path / "a",
        cell(success=[10, 11]),
        cell("FMN", None, distance={10: 0.2, 11: 0.4, 12: 0.5}, success=[10, 11, 12]),
        cell("gone"),
    )
    new = fabricate(
        tmp_path / "b",
        cell(success=[11, 12], ids=(10, 11, 12, 14), wrong=(14,), model_hash="another"),
        cell("FMN", None, distance={10: 0.1, 11: 0.4, 12: 0.75}, success=[10, 11, 12], passes=9),
        cell("fresh"),
        cell("fresh", 0.2),
    )
    changes = compare_stores(old, new)
    first, second = changes.cells
    assert first.images == {
        "gained": [12],
        "lost": [10],
        "nearer": [],
        "farther": [],
        "relabelled": [],
        "only_a": [13],
        "only_b": [14],
    }
    assert (first.both, first.hashes) == (3, ("model_hash",))
    assert (second.nearer.tolist(), second.farther.tolist()) == ([10], [12])
    assert (second.ratio, second.passes, second.hashes) == (1.0, (9.0, 17.0), ())
    assert [one["attack"] for one in changes.only_a] == ["gone"]
    assert [one["epsilon"] for one in changes.only_b] == [0.1, 0.2]
    close = compare_stores(old, new, where={"attack": "FMN"}, tolerance=0.6)
    assert close.equal
    assert not compare_stores(old, new, where={"attack": "FMN"}, tolerance=0.4).equal


def test_cells_of_one_store_are_compared(tmp_path):
    store = fabricate(
        tmp_path,
        cell("PGD(steps=1)"),
        cell("PGD(steps=9)", success=[10]),
        cell("FMN", None, success=[11], distance={11: 0.3}),
        cell("FMN", None, software="2", success=[11], distance={11: 0.2}),
    )
    steps = {"left": {"attack": "PGD(steps=1)"}, "right": {"attack": "PGD(steps=9)"}}
    (found,) = compare_stores(store, store, **steps).cells
    assert found.gained.tolist() == [10]
    with pytest.raises(ValueError, match="two cells 'net / set / FMN.*software_hash"):
        compare_stores(store, store)
    versions = {"left": {"software": "jax 1"}, "right": {"software": "jax 2"}}
    (found,) = compare_stores(store, store, where={"attack": "FMN"}, **versions).cells
    assert (found.nearer.tolist(), found.hashes) == ([11], ("software_hash",))
    with pytest.raises(ValueError, match="'colour' is not known"):
        compare_stores(store, store, where={"colour": "red"})


def test_images_that_share_an_id_are_refused(tmp_path):
    store = fabricate(tmp_path, cell(ids=(10, 10)))
    with pytest.raises(ValueError, match="share an id"):
        compare_stores(store, store)


# ---- the command line -----------------------------------------------------------------------


def test_report_on_the_command_line(swept, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    folder, _ = swept
    done = run_command(
        "report",
        folder,
        "--output",
        tmp_path / "out",
        "--json",
        tmp_path / "data.json",
        "--examples 2",
    )
    assert done.exit_code == 0, done.stderr
    assert "under all attacks together, by ε (linf)" in " ".join(done.stdout.split())
    data = json.loads((tmp_path / "data.json").read_text())
    assert json.loads((tmp_path / "out/report.json").read_text()) == data
    percent = 100 * data["standings"][0]["norms"]["linf"]["levels"][0]["value"]
    assert f"{percent:.1f}" in done.stdout
    assert f"{percent:.1f}" in (tmp_path / "out/report.html").read_text()


def test_compare_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    a, b = tmp_path / "a", tmp_path / "b"
    fabricate(a, cell(success=[10]))
    fabricate(b, cell(success=[11], data_hash="other"))
    assert run_command("compare", a, a).exit_code == 0
    differing = run_command("compare", a, b, "--images --json", tmp_path / "changes.json")
    assert differing.exit_code == 1
    said = " ".join(differing.stdout.split())
    assert "net / set / PGD / linf / 0.1 / seed 0: gained: 11" in said
    assert "the data of 1 cells is called the same and is another" in said
    written = json.loads((tmp_path / "changes.json").read_text())
    assert (written["equal"], written["cells"][0]["lost"]) == (False, [10])
    assert written["cells"][0]["hashes"] == ["data_hash"]


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_exported_rows_are_those_of_the_store(swept, tmp_path, kind):
    reader = pytest.importorskip(kind)
    folder, _ = swept
    done = run_command(
        "export",
        folder,
        "--csv",
        tmp_path / "rows.csv",
        "--robustbench",
        tmp_path / "board.json",
        "--json",
        tmp_path / "said.json",
    )
    assert done.exit_code == 0, done.stderr
    rows = SweepStore(folder).rows()
    assert json.loads((tmp_path / "said.json").read_text())["rows"] == rows.num_rows
    whole = {} if kind == "pandas" else {"infer_schema_length": None}
    read = reader.read_csv(tmp_path / "rows.csv", **whole)
    assert list(read.columns) == SCHEMA.names
    for name in SCHEMA.names:
        expected = rows[name].to_pylist()
        found = [None if value != value else value for value in read[name].to_list()]
        if name == "margin":
            found = [float(np.float32(value)) for value in found]
        assert found == expected, name
    entries = json.loads((tmp_path / "board.json").read_text())
    assert [(e["threat_model"], e["eps"]) for e in entries] == [
        ("Linf", "0.05"),
        ("Linf", "0.2"),
        *[("L2", e["eps"]) for e in entries[2:]],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "report nowhere",
        "compare nowhere nowhere",
        "export nowhere --csv a",
        "export nowhere",
        "report nowhere --examples -1",
        "compare STORE STORE --where attack",
        "compare STORE STORE --where colour=red",
        "compare STORE STORE --where seed=0 --left seed=1",
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    fabricate(tmp_path / "STORE", cell())
    done = run_command(line)
    assert done.exit_code == 2
    assert re.fullmatch(r"(cells.*\n)?error: [^\n]+\n", done.stderr)


@pytest.mark.slow
def test_a_report_imports_no_compiler(tmp_path):
    fabricate(tmp_path / "store", cell(success=[10]))
    code = (
        "import sys\nfrom jaxadv.cli import app\n"
        "try: app(['report', sys.argv[1]])\n"
        "except SystemExit as end: print('code', end.code, 'jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-3:] == ["code", "0", "False"]


# ---- in a browser ---------------------------------------------------------------------------

PROBE = """<script>
window.addEventListener("load", () => {
  const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
  const asked = performance.getEntriesByType("resource").map(e => e.name.slice(0, 40));
  document.body.dataset.found = `${document.images.length} ${broken} ${asked.length}`;
});
</script></body>"""


def browse(page, folder, *flags):
    run = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder}",
        "--enable-logging=stderr",
        "--window-size=1300,1600",
        "--virtual-time-budget=9000",
        *flags,
        page.as_uri(),
    ]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")
def test_pages_open_from_disk_in_a_browser(swept, tmp_path):
    from matplotlib.image import imread

    folder, _ = swept
    store = SweepStore(folder)
    report = write_sweep(sweep_data(store, 2), store, tmp_path / "out")
    pages = [report, *(tmp_path / "out/images").iterdir()]
    for page in pages:
        text = page.read_text()
        assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import|<script""", text)
        for link in re.findall(r'href="([^"#]+)"', text):
            assert (page.parent / link).is_file()
    shown = tmp_path / "shown.png"
    browse(report, tmp_path / "profile", f"--screenshot={shown}")
    seen = imread(shown)
    assert seen.shape[1] == 1300
    assert seen[..., :3].std() > 0.02  # not an empty page
    for page in (report, pages[1], tmp_path / "out/images/index.html"):
        probed = page.with_name(f"probed-{page.name}")
        probed.write_text(page.read_text().replace("</body>", PROBE))
        found = re.search(
            r'data-found="(\d+) (\d+) (\d+)"', browse(probed, tmp_path / "profile", "--dump-dom")
        )
        images, broken, asked = map(int, found.groups())
        assert (images, broken, asked) == (page.read_text().count("<img"), 0, 0)
