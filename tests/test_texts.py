"""Texts that a user gives, and documentation that is always there."""

import inspect

import numpy as np
import pytest

from jaxadv.data.texts import documentation, is_text, load_texts, paragraphs
from jaxadv.studies import spam_corpus


def test_a_folder_and_tables_hold_the_same_texts(tmp_path):
    pairs = [("spam", 'Win, "now"'), ("ham", "See you\nat six"), ("spam", "Grüße")]
    folder = tmp_path / "mails"
    for number, (label, text) in enumerate(pairs):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "notes.md").write_text("not a class")
    csv = tmp_path / "mails.csv"
    csv.write_text('id,text,label\n1,"Win, ""now""",spam\n2,"See you\nat six",ham\n3,Grüße,spam\n')
    tsv = tmp_path / "mails.tsv"
    tsv.write_text('label\ttext\nspam\t"Win, ""now"""\nham\t"See you\nat six"\nspam\tGrüße\n')
    for path in (folder, csv, tsv):
        found = load_texts(path)
        assert found.classes == ("ham", "spam") and is_text(path)
        names = [found.classes[label] for label in found.labels]
        assert sorted(zip(names, found.texts, strict=True)) == sorted(pairs)


def test_bad_texts_get_one_clear_error(tmp_path):
    (tmp_path / "a.csv").write_text("kind,words\nx,y\n")
    (tmp_path / "b.csv").write_text("label,text\nx,\n")
    (tmp_path / "c.csv").write_bytes(b"label,text\nx,\xff\xfe\n")
    for name, match in (
        ("a.csv", "has the columns"),
        ("b.csv", "no texts"),
        ("c.csv", "not UTF-8"),
        ("d.csv", "does not exist"),
    ):
        with pytest.raises(ValueError, match=match):
            load_texts(tmp_path / name)
    with pytest.raises(ValueError, match="no_such_package"):
        load_texts("documentation:no_such_package")
    assert not is_text(tmp_path)


def test_documentation_is_the_docstrings_of_the_packages():
    optax = pytest.importorskip("optax")
    found = documentation(["optax", "typer"])
    assert found.classes == ("optax", "typer") and len(np.unique(found.labels)) == 2
    own = [text for text, k in zip(found.texts, found.labels, strict=True) if k == 0]
    assert set(paragraphs([inspect.getdoc(optax.adam) or ""])) <= set(own)
    assert len(set(found.texts)) == len(found.texts)


def test_messages_are_the_frequent_words_of_the_texts(monkeypatch):
    sklearn = pytest.importorskip("sklearn.feature_extraction.text")
    monkeypatch.setattr(spam_corpus, "QUERIES", (10, 20))
    monkeypatch.setattr(spam_corpus, "LENGTH", 30)
    texts = documentation(["optax", "typer"])
    known, attacker, test = spam_corpus.corpora(texts)
    assert len(attacker.labels) == 20
    assert sum(len(part.labels) for part in (known, attacker, test)) == len(texts.texts)
    counter = sklearn.CountVectorizer(token_pattern=r"[^\W\d_]{3,}", binary=True)
    everywhere = np.sort(np.asarray(counter.fit_transform(texts.texts).mean(0)).ravel())[-30:]
    mean = np.concatenate([part.messages for part in (known, attacker, test)]).mean(0).ravel()
    assert np.sort(mean).sum() > 0.95 * everywhere.sum()
    labels = np.concatenate([part.labels for part in (known, attacker, test)])
    assert labels.mean() == pytest.approx((texts.labels == 1).mean())  # the last class is spam
    with pytest.raises(ValueError, match="or more, of two classes"):
        spam_corpus.corpora(texts._replace(texts=texts.texts[:30], labels=texts.labels[:30]))
