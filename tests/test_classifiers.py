"""All classifiers compared, and nonsense with a document's topics, against scikit-learn itself."""

import numpy as np
import pytest

from jaxadv.data import load_data
from jaxadv.studies import Setting, conduct
from jaxadv.studies.topics import corpus, nonsense

pytest.importorskip("sklearn")
from sklearn.decomposition import NMF, LatentDirichletAllocation
from sklearn.feature_extraction.text import CountVectorizer


@pytest.mark.parametrize("kind", [NMF, LatentDirichletAllocation])
def test_nonsense_has_the_topics_and_none_of_the_words(kind) -> None:
    counter = CountVectorizer(token_pattern=r"[a-z]{3,}", stop_words="english", min_df=8)
    counts = counter.fit_transform(corpus()).toarray().astype(float)
    model = kind(n_components=6, random_state=0).fit(counts)
    longest = np.argsort(-counts.sum(1))[:8]
    found = [nonsense(model, counts[i]) for i in longest]
    for i, one in zip(longest, found, strict=True):
        assert (one.counts[counts[i] > 0] == 0).all()
        assert (one.counts == np.rint(one.counts)).all() and one.counts.sum() > 0
        have, wanted = model.transform(np.stack([one.counts, counts[i]]))
        difference = have / have.sum() - wanted / wanted.sum()
        assert one.error == pytest.approx(0.5 * np.abs(difference).sum(), abs=1e-6)
    assert np.median([one.error for one in found]) < 0.05
    with pytest.raises(ValueError, match="lacks only"):
        nonsense(model, np.ones(counts.shape[1]))


@pytest.mark.slow
def test_every_kind_has_blind_spots(tmp_path) -> None:
    train, test = (load_data("digits", split) for split in ("train", "test"))
    setting = Setting(train, test, tmp_path, seeds=1, examples=60, quick=True)
    table, gallery, _, universal, _ = conduct("classifiers.distance", setting).parts
    assert np.ptp(table.values[:, 1]) < 12  # accuracy, near enough to equal
    median, way, ratio = table.values[:, 2], table.values[:, 3], table.values[:, 5]
    assert (median > 0).all() and (way < 1).all() and (ratio > 1).all()
    assert gallery.images.shape[0] == 8
    own = universal.values[universal.rows.index("logistic regression")]
    assert own[0] > 1.5 * own[universal.columns.index("random signs")]
