"""A sweep against `ja.run` itself, and against everything that can happen to its store."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jaxadv as ja
from jaxadv.core.norms import distance64
from jaxadv.protocols.evaluation import SURVIVED
from jaxadv.sweep import GridError, SweepStore, parse_grid
from jaxadv.sweep.leaderboard import Standing
from jaxadv.sweep.read import CellRows, Part
from jaxadv.sweep.store import TIMED

GRID = """
seeds = [0, 1]
shard = 30
lanes = 8
epsilons = {linf = [0.02, "15/255"]}
data = [{name = "noise"}]
models = [{given = "smooth"}]
attacks = [
    {name = "PGD", steps = [3]},
    {name = "DDN", norm = "l2", steps = 20},
]
"""
WEIGHTS = jax.random.normal(jax.random.key(3), (36, 4))
MODEL = ja.Model(lambda w, x: jnp.tanh(x.reshape(len(x), -1) - 0.5) @ w, WEIGHTS)
IMAGES = np.asarray(jax.random.uniform(jax.random.key(1), (12, 6, 6, 1)))
LABELS = np.asarray(MODEL(IMAGES).argmax(-1)).astype(np.int32)
IDS = np.arange(100, 112, dtype=np.int32)
DATA = ja.data.Dataset(IMAGES, LABELS, IDS, "noise", ("a", "b", "c", "d"))


def sweep(folder, text: str = GRID, **more):
    return ja.run_sweep(
        parse_grid(text), folder, models={"smooth": MODEL}, data={"noise": DATA}, **more
    )


def untimed(folder):
    """All rows in an order that no timing decides, without the times."""
    rows = SweepStore(folder).rows().drop_columns(list(TIMED))
    return rows.sort_by([("cell", "ascending"), ("id", "ascending")])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, one = tmp_path_factory.mktemp("whole"), jax.local_devices()[:1]
    with pytest.MonkeyPatch.context() as patch:  # as in all tests: a module's set-up comes before
        patch.setattr(jax, "local_devices", lambda *_, **__: one)
        summary = sweep(folder)
    assert summary.complete
    assert summary.rows == 12 * (2 * 2 + 2)
    return folder


def test_another_default_generator_changes_no_row(whole, tmp_path):
    portfolio = 'attacks = [{name = "minimal_distance", norm = "l2", effort = "fast"}]'
    text = GRID[: GRID.index("attacks")].replace("epsilons", "# epsilons") + portfolio
    assert sweep(tmp_path / "portfolio", text).complete
    with jax.default_prng_impl("rbg"):
        assert sweep(tmp_path / "attacks").complete
        assert sweep(tmp_path / "again", text).complete
    assert untimed(tmp_path / "attacks").equals(untimed(whole))
    assert untimed(tmp_path / "again").equals(untimed(tmp_path / "portfolio"))


@pytest.mark.slow
def test_every_cell_is_what_run_returns(whole):
    rows = SweepStore(whole).rows().to_pylist()
    store = SweepStore(whole)
    images = {}
    for job in store.manifest["jobs"]:
        kept = store.images(job)
        for row, image in zip(kept["rows"], kept["images"], strict=True):
            about = store.load(job).slice(row, 1).to_pylist()[0]
            images[about["cell"], about["id"]] = image
    seen = 0
    for title, attack in (("PGD(steps=3)", ja.PGD(steps=3)), ("DDN(steps=20)", ja.DDN(steps=20))):
        for seed in (0, 1):
            for epsilon in (0.02, 15 / 255) if attack.needs_epsilon else (None,):
                mine = [
                    r
                    for r in rows
                    if (r["attack"], r["seed"], r["epsilon"]) == (title, seed, epsilon)
                ]
                result = ja.run(
                    attack,
                    MODEL,
                    IMAGES,
                    ja.Untargeted(LABELS),
                    epsilon,
                    key=jax.random.key(seed),
                    ids=IDS,
                    lanes=8,
                )
                assert [r["id"] for r in mine] == IDS.tolist()
                assert [r["success"] for r in mine] == result.success.tolist()
                assert [r["forward"] for r in mine] == result.forward.tolist()
                assert [r["queries"] for r in mine] == result.queries.tolist()
                for i in np.flatnonzero(result.success):
                    kept = images[mine[i]["cell"], IDS[i]]
                    np.testing.assert_array_equal(kept, result.images[i])
                    for norm in ("linf", "l2", "l1", "l0"):
                        expected = distance64(norm, kept[None], IMAGES[i : i + 1])[0]
                        assert mine[i][norm] == expected
                seen += len(mine)
    assert seen == len(rows)


@pytest.mark.slow
def test_a_cascade_of_a_sweep_does_what_evaluate_does(tmp_path):
    text = GRID[: GRID.index("attacks")] + 'attacks = [{name = "fast", norm = "linf"}]'
    assert sweep(tmp_path, text).complete
    rows = SweepStore(tmp_path).rows().to_pylist()
    refined = 0
    for seed in (0, 1):
        for epsilon in (0.02, 15 / 255):
            report = ja.evaluate(
                MODEL,
                IMAGES,
                LABELS,
                epsilons=[epsilon],
                attacks="fast",
                ids=IDS,
                key=jax.random.key(seed),
                lanes=8,
                distances=False,
            )
            mine = [r for r in rows if (r["seed"], r["epsilon"]) == (seed, epsilon)]
            assert [r["success"] for r in mine] == (report.broken_by[0] != SURVIVED).tolist()
            passes = sum(report.passes) + 1  # and the clean image's
            assert [r["forward"] + r["backward"] for r in mine] == passes.tolist()
            refined += len(report.stages[3].source)
    assert 0 < refined < len(rows)  # else the case is none


def test_other_readers_read_the_rows(whole):
    polars, duckdb, pandas = (pytest.importorskip(n) for n in ("polars", "duckdb", "pandas"))
    count = SweepStore(whole).rows().num_rows
    won = sum(SweepStore(whole).rows()["success"].to_pylist())
    table = polars.read_parquet(whole / "rows/*.parquet")
    assert (len(table), table["success"].sum()) == (count, won)
    frame = pandas.read_parquet(whole / "rows")
    assert (len(frame), frame["success"].sum()) == (count, won)
    found = duckdb.sql(f"select count(*), sum(success::int) from '{whole}/rows/*.parquet'")
    assert found.fetchall() == [(count, won)]


def test_a_second_call_and_a_larger_grid_keep_what_is_there(whole, tmp_path):
    first = sweep(tmp_path, GRID.replace("[0, 1]", "[1]"))
    again = sweep(tmp_path)
    assert (first.kept, again.kept) == (0, first.jobs)
    assert sweep(tmp_path).computed == 0
    assert untimed(tmp_path).equals(untimed(whole))


@pytest.mark.slow
def test_what_is_proved_or_broken_is_so_by_the_distance_to_the_hyperplanes(tmp_path):
    weights = jax.random.normal(jax.random.key(5), (36, 4))
    model = ja.Model(lambda w, x: x.reshape(len(x), -1) @ w, weights)
    images = 0.5 + 0.2 * (IMAGES - 0.5)
    data = ja.data.Dataset(images, np.asarray(model(images).argmax(-1)), IDS, "grey", tuple("abcd"))
    text = """
        seeds = [0, 1]
        epsilons = {linf = [0.15, 0.166]}
        data = [{name = "grey"}]
        models = [{given = "linear"}]
        attacks = [{name = "quick", prove = "fast"}]
    """
    ja.run_sweep(parse_grid(text), tmp_path, models={"linear": model}, data={"grey": data})
    rows = SweepStore(tmp_path).rows().to_pandas().sort_values(["epsilon", "seed", "id"])
    wide, columns = np.asarray(images, np.float64).reshape(12, -1), np.asarray(weights, np.float64)
    own = data.labels
    gaps = (wide @ columns)[np.arange(12), own][:, None] - wide @ columns
    slopes = np.abs(columns[:, own].T[:, :, None] - columns[None]).sum(1)
    exact = np.where(slopes > 0, gaps / np.where(slopes > 0, slopes, 1), np.inf).min(1)
    epsilon = rows["epsilon"].to_numpy()
    safe = np.tile(exact, 4) > epsilon
    assert (np.abs(np.tile(exact, 4) / epsilon - 1) > 1e-3).all()
    assert safe.any() and not safe.all()
    assert rows["status"].tolist() == np.where(safe, "PROVED", "SUCCESS").tolist()
    levels = ja.report.sweep_data(SweepStore(tmp_path))["standings"][0]["norms"]["linf"]["levels"]
    for level in levels:
        mean = safe[epsilon == level["epsilon"]].mean()
        assert level["value"] == level["proved"]["value"] == mean


def test_a_leaderboard_that_contradicts_itself_says_so():
    about = {"model": "m", "data": "d", "norm": "linf", "goal": "untargeted"}
    about |= {"model_hash": "", "data_hash": "", "attack": "", "seed": 0, "epsilon": 0.1}
    standing = Standing(about)
    for attack, status, epsilon in (("PGD", "SUCCESS", 0.1), ("quick", "PROVED", 0.2)):
        success = status == "SUCCESS"
        values = {"id": 0, "prediction": 1, "label": 1, "success": success, "status": status}
        values |= {"forward": 1, "backward": 1}
        rows = pa.table({name: [value] for name, value in values.items()})
        part = Part("", 0, 0, rows)
        at = {**about, "attack": attack, "epsilon": epsilon}
        standing.add(CellRows("", at, 1, ("",), (part,)))
    assert standing.contradictions("linf") == 1


@pytest.mark.parametrize("damage", ["cut", "value", "images", "gone", "empty"])
def test_what_is_torn_or_altered_is_done_again(whole, tmp_path, damage):
    import shutil

    folder = shutil.copytree(whole, tmp_path / "store")
    job = sorted((folder / "rows").glob("*.parquet"))[0]
    content = job.read_bytes()
    if damage == "cut":
        job.write_bytes(content[: len(content) // 2])
    elif damage == "value":  # a well-formed file with another value
        table = pq.read_table(job)
        said = table.schema.metadata
        flipped = [not value for value in table["success"].to_pylist()]
        place = table.column_names.index("success")
        pq.write_table(
            table.set_column(place, table.schema.field(place), [flipped]).replace_schema_metadata(
                said
            ),
            job,
        )
    elif damage == "images":
        (folder / "images" / f"{job.stem}.npz").write_bytes(b"nothing")
    elif damage == "empty":
        job.write_bytes(b"")
    else:
        job.unlink()
    assert SweepStore(folder).rows().num_rows < SweepStore(whole).rows().num_rows
    summary = sweep(folder)
    assert (summary.computed, summary.complete) == (1, True)
    assert untimed(folder).equals(untimed(whole))


def test_a_byte_that_flips_is_noticed_or_changes_no_value(whole, tmp_path):
    import shutil

    folder = shutil.copytree(whole, tmp_path / "store")
    job = sorted((folder / "rows").glob("*.parquet"))[0]
    content, store = job.read_bytes(), SweepStore(folder)
    before, noticed = store.load(job.stem), 0
    places = np.linspace(0, len(content) - 1, 300).astype(int)
    for place in places:
        job.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        now = store.load(job.stem)
        noticed += now is None
        assert now is None or now.equals(before)
    assert noticed > 0.5 * len(places)


def test_only_some_cells(whole, tmp_path):
    summary = sweep(tmp_path, only=["PGD(steps=3) / linf / 0.02 / seed 0"])
    assert summary.rows == 12
    assert sweep(tmp_path, only=["DDN*"]).rows == 24
    with pytest.raises(ValueError, match="matches no cell"):
        sweep(tmp_path, only=["nothing"])


def test_a_full_disk_leaves_the_store_valid(whole, tmp_path, monkeypatch):
    import errno

    from jaxadv.sweep import store as module

    written, write = [], module.write_atomically

    def full(path, content):
        written.append(path)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        sweep(tmp_path)
    rows = SweepStore(tmp_path).rows().num_rows
    assert 0 < rows < SweepStore(whole).rows().num_rows
    monkeypatch.undo()
    assert sweep(tmp_path).complete
    assert untimed(tmp_path).equals(untimed(whole))


def test_a_job_that_fails_is_named_and_retried_on_request(tmp_path):
    broken = ja.Model(lambda w, x: 1 / 0 if len(x) == 8 else MODEL.apply(w, x), WEIGHTS)
    grid = parse_grid(GRID)
    how = {"models": {"smooth": broken}, "data": {"noise": DATA}}
    summary = ja.run_sweep(grid, tmp_path, **how)
    assert not summary.complete
    assert len(summary.failed) == summary.jobs
    assert all("ZeroDivisionError" in said for said in summary.failed.values())
    assert ja.run_sweep(grid, tmp_path, **how).computed == 0
    assert ja.run_sweep(grid, tmp_path, retry_failed=True, **how).computed == summary.jobs


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("seeds = [0, 1]", "seeds = [0, -1]", 2, "seeds"),
        ("seeds = [0, 1]", "seed = [0]", 2, "seed"),
        ("shard = 30", "shard = 0", 3, "shard"),
        ('"15/255"', '"15/x"', 5, "15/x"),
        ("linf = [0.02", "linv = [0.02", 5, "linv"),
        ("lanes = 8", "lanes = = 8", 4, "line 4"),
        ('{given = "smooth"}', '{given = "smooth", train = "lenet"}', 7, "one of"),
        ('name = "PGD"', 'name = "PDG"', 8, "PDG"),
        ("steps = 20", "steps = 0", 8, "steps"),
        ("steps = 20", 'steps = "x"', 8, "integer"),
        ("steps = 20", "step = 20", 8, "does not take"),
        ('norm = "l2"', 'norm = "l3"', 8, "l3"),
        ('name = "PGD", steps = [3]', 'name = "quick", prove = "best"', 8, "prove='best'"),
        (
            'name = "PGD", steps = [3]',
            'name = "quick", prove = "fast", goal = "next"',
            8,
            "untargeted",
        ),
        ('name = "PGD"', 'name = "PGD", norm = "l2"', 8, "needs epsilons"),
        ("linf = [0.02", "l1 = [1.0], linf = [0.02", 5, "no attack runs in l1"),
    ],
)
def test_every_mistake_names_its_line(old, new, line, said):
    assert old in GRID
    with pytest.raises(GridError, match=said) as caught:
        parse_grid(GRID.replace(old, new))
    assert f"line {line}" in str(caught.value)


def test_models_are_called_as_their_folders_and_files():
    models = '[{load = "nets/linf0.1"}, {load = "nets/linf0.3"}, {load = "a.b.safetensors"}]'
    grid = parse_grid(GRID.replace('[{given = "smooth"}]', models))
    assert [model.title for model in grid.models] == ["linf0.1", "linf0.3", "a.b"]


@pytest.mark.slow
def test_two_at_one_store_share_its_jobs(whole, tmp_path):
    script = (
        "import sys; sys.path.insert(0, 'tests'); from test_sweep import sweep\n"
        "print(sweep(sys.argv[1]).computed)"
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    both = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = [int(process.communicate()[0].split()[-1]) for process in both]
    assert sum(made) == len(SweepStore(tmp_path).manifest["jobs"])
    assert untimed(tmp_path).equals(untimed(whole))


def test_the_next_group_is_compiled_ahead_by_the_programs_that_it_runs(tmp_path, monkeypatch):
    """Reports come once a job runs; each begins the compilation of one group, and none twice."""
    from jaxadv.engine.compilation import _PROGRAMS
    from jaxadv.sweep import execute

    grid = parse_grid(
        'seeds = [0]\nlanes = 8\nepsilons = {linf = [0.02]}\ndata = [{name = "noise"}]\n'
        'models = [{given = "a"}, {given = "b"}]\nattacks = [{name = "PGD", steps = [3]}]\n'
    )

    def programs(folder) -> int:
        models = {  # functions that no other test has compiled
            "a": ja.Model(lambda w, x: jnp.sin(x.reshape(len(x), -1)) @ w, WEIGHTS),
            "b": ja.Model(lambda w, x: jnp.cos(x.reshape(len(x), -1)) @ w, WEIGHTS),
        }
        before = sum(len(program.pending) for program in _PROGRAMS)
        summary = ja.run_sweep(grid, tmp_path / folder, models=models, data={"noise": DATA})
        assert summary.complete
        return sum(len(program.pending) for program in _PROGRAMS) - before

    compile_job, begun = execute.compile_job, []

    def noted(plan, job, devices):
        begun.append((job.group, len(list(tmp_path.glob("ahead/**/*.parquet")))))
        return compile_job(plan, job, devices)

    monkeypatch.setattr(execute, "compile_job", noted)
    ahead = programs("ahead")
    assert len(begun) == 1 and begun[0][1] == 0  # before the first job was finished
    monkeypatch.setattr(execute, "compile_job", lambda *_: None)
    assert ahead == programs("after") > 0
