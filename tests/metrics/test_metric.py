"""A metric: values in its range become shares; what one computes, another may use."""

import pytest

from safe_train.metrics.metric import Corpus, Metric, score_each


def test_shares_are_values_over_the_highest_and_stay_within_0_and_1():
    metric = Metric("count", "count", lambda corpus: [float(len(text)) for text in corpus.predictions], highest=4.0)
    assert metric.shares(Corpus(["", "ab", "abcdefgh"], [["x"]] * 3)) == [0.0, 0.5, 1.0]
    below = Metric("below", "below", lambda corpus: [-0.5])
    assert below.shares(Corpus(["a"], [["x"]])) == [0.0]


@pytest.mark.parametrize(("highest", "written"), [(1.0, (100.0, 1, " %", "points")), (10.0, (10.0, 2, "", ""))])
def test_shares_are_written_in_percent_and_other_values_as_they_are(highest, written):
    metric = Metric("m", "m", lambda corpus: [], highest=highest)
    assert (metric.scale, metric.digits, metric.unit, metric.unit_of_change) == written


def test_a_corpus_computes_a_metric_once():
    calls = []

    def score(corpus):
        calls.append(corpus)
        return [1.0]

    metric, corpus = Metric("one", "one", score), Corpus(["a"], [["a"]])
    both = Metric("both", "both", lambda corpus: [2 * value for value in corpus.scores(metric)])
    assert (corpus.scores(metric), corpus.scores(both), corpus.scores(metric)) == ([1.0], [2.0], [1.0])
    assert len(calls) == 1


def test_each_prediction_meets_its_own_references():
    equal = score_each(lambda text, references: float(text in references))
    assert equal(Corpus(["a", "b"], [["b"], ["a", "b"]])) == [0.0, 1.0]
