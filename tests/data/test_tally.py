import logging

import pytest

from fluxflow.data.tally import Tally
from fluxflow.errors import DataError


def test_first_sample_of_each_reason_is_named_once(caplog):
    tally = Tally("here")
    with caplog.at_level(logging.WARNING):
        for key, reason in [("a", "damaged"), ("b", "damaged"), ("c", "no caption")]:
            tally.skip(key, reason)
    assert [record.message.split(":")[1].strip() for record in caplog.records] == [
        "sample a is skipped",
        "sample c is skipped",
    ]
    assert tally.report().endswith("3 of 3 samples cannot be used: 2 damaged (first: a), 1 no caption (first: c)")


def test_more_than_one_percent_ends_the_run_and_less_does_not():
    tally = Tally("here")
    for _ in range(398):
        tally.accept()
    for key in "abcd":
        tally.skip(key, "damaged")
    tally.end_pass()
    with pytest.raises(DataError, match="5 of 403 samples cannot be used"):
        tally.skip("e", "damaged")


def test_few_samples_are_given_patience_until_the_pass_ends():
    tally = Tally("here")
    for n in range(150):
        tally.skip(str(n), "damaged")
    with pytest.raises(DataError, match=r"150 of 150 .* None is left"):
        tally.end_pass()
