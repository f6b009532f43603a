"""The data report: numbers that add up, and a page that shows hostile text without running it."""

import html.parser
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder import records
from stepladder.report import data as report

READING = {"columns": {"input": "t", "slices": ["a", "b"]}, "note": "guess"}
HOSTILE = '<script>alert("1")</script> \u202eevil\x1b[31m {{ 7 * 7 }} \u200b&amp;'


def summary(rows, task="classification"):
    frame, ledger = records.clean(rows, name="mine", task=task, labels=None)
    return report.summarise(frame, ledger, name="mine", task=task, reading=READING)


def rows_of(*inputs):
    return [{"input": text, "target": "yes" if i % 2 else "no"} for i, text in enumerate(inputs)]


def test_counts_lengths_and_bytes_are_right():
    found = summary([*rows_of("one two, three", "Four five!", "six", "seven é"), {"input": "SIX", "target": "no"}])
    assert (found["rows_in"], found["rows_out"], found["dropped"]) == (5, 4, {"input seen before": 1})
    assert found["classes"] == {"no": {"rows": 2, "share": 0.5}, "yes": {"rows": 2, "share": 0.5}}
    words, tokens = found["lengths"]["input"]["words"], found["lengths"]["input"]["tokens"]
    assert (words["total"], words["min"], words["median"], words["max"]) == (8, 1, 2, 3)
    assert (tokens["total"], tokens["max"]) == (10, 4)
    assert found["num_bytes"] == len("one two, threeFour five!sixseven é".encode())


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=200))
def test_a_histogram_holds_every_row_in_at_most_twenty_bins(lengths):
    found = report._distribution(lengths)
    assert sum(bin["rows"] for bin in found["bins"]) == len(lengths)
    assert len(found["bins"]) <= report.NUM_BINS
    assert found["min"] <= found["median"] <= found["p95"] <= found["p99"] <= found["max"]


def test_hostile_text_is_shown_and_never_run():
    page = report.page(summary(rows_of(HOSTILE, "plain", HOSTILE.upper() + " again", "fine")))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;U+202E&gt;evil&lt;U+001B&gt;[31m" in page
    assert not any(character in page for character in "\u202e\x1b\u200b")


@pytest.mark.capability(49)
def test_the_page_is_well_formed_and_needs_no_network():
    page = report.page(summary(rows_of("a", "b")))
    assert "http" not in page
    assert "src=" not in page
    parser = Balance()
    parser.feed(page)
    assert parser.open == []


def test_the_report_is_the_same_each_time_and_can_be_written_as_json():
    rows = rows_of("one", "two", HOSTILE)
    assert report.page(summary(rows)) == report.page(summary(rows))
    assert json.loads(json.dumps(summary(rows), allow_nan=False))["name"] == "mine"


def test_texts_as_targets_get_lengths_of_their_own_and_raw_text_has_none():
    generation = summary([{"input": "a", "target": "b c d"}], task="generation")
    assert generation["lengths"]["target"]["words"]["total"] == 3
    assert generation["classes"] is None
    raw = summary([{"input": "a b", "target": None, "group": "g"}], task="language_modeling")
    assert list(raw["lengths"]) == ["input"]
    assert raw["num_groups"] == 1
    assert "1 groups" in report.page(raw)


class Balance(html.parser.HTMLParser):
    """Collects the tags that were opened and not closed."""

    VOID = ("meta",)

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """A tag that closes itself leaves nothing open."""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
