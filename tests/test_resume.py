"""Studies that are stopped keep what they have: the same call goes on from there."""

import numpy as np
import pytest

from jaxadv.data import Dataset
from jaxadv.studies import Setting, spam

NOTHING = Dataset(np.zeros((0, 1, 1, 1), "float32"), np.zeros(0, "int32"), np.arange(0), "none", ())


def test_arrays_are_computed_once_for_what_they_depend_on(tmp_path):
    setting, calls = Setting(NOTHING, NOTHING, tmp_path), []

    def compute():
        calls.append(1)
        return {"a": np.arange(3), "b": 0.5}

    for same in ((1, np.zeros(2)), (1, np.zeros(2)), (2, np.zeros(2)), (2, np.ones(2))):
        kept = setting.keep("x", same, compute)
        assert kept["a"].tolist() == [0, 1, 2] and float(kept["b"]) == 0.5
    assert len(calls) == 3

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.keep("y", 1, stopped)
    assert not (tmp_path / "kept" / "y.npz").exists()


def test_the_study_of_spam_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    attacks, surrogates = [], []
    run, surrogate_of = spam.run, spam.surrogate_of
    monkeypatch.setattr(spam, "run", lambda *a, **k: attacks.append(1) or run(*a, **k))
    monkeypatch.setattr(spam, "QUERIES", (50, 100))
    monkeypatch.setattr(spam, "ADDED", (1, 4))
    made = lambda *a: surrogates.append(1) or surrogate_of(*a)  # noqa: E731
    monkeypatch.setattr(spam, "surrogate_of", made)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "add words" and len(attacks) == 3:
            raise KeyboardInterrupt

    setting = Setting(NOTHING, NOTHING, tmp_path, seeds=1, examples=10, quick=True)
    with pytest.raises(KeyboardInterrupt):
        spam.spam_filter(setting._replace(progress=stop))
    assert (len(attacks), len(surrogates)) == (3, 2)
    whole = spam.spam_filter(setting)
    assert (len(attacks), len(surrogates)) == (4, 3)  # one attack was left, and its surrogate
    again = spam.spam_filter(setting)
    assert (len(attacks), len(surrogates)) == (4, 3)
    np.testing.assert_array_equal(whole.parts[0].values, again.parts[0].values)
    fresh = spam.spam_filter(setting._replace(folder=tmp_path / "fresh"))
    np.testing.assert_array_equal(whole.parts[0].values, fresh.parts[0].values)
