"""Sentences of four domains with the mean rating of about twenty people, from -4 to 4, out of the vaderSentiment sdist.

One line: 1_1<TAB>-0.9<TAB>troubleshooting ad-2500 and ad-2600 no picture scrolling b/w.
Source: Hutto and Gilbert 2014, "VADER: a parsimonious rule-based model for sentiment analysis of social media", ICWSM.
"""

from collections.abc import Iterator
from pathlib import Path

from stepladder.errors import ConfigError, DataError, unknown
from stepladder.sources import _archives, _strict

NESTED = "*/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
LABELS = ("negative", "positive")
DOCUMENTED = ("amazon", "nyt")  # their ids are document_sentence; sentences of one document belong together


def read(path: Path, *, domains: list[str], min_score: float) -> Iterator[dict]:
    """Yield the sentences of `domains` as positive or negative; those rated nearer to 0 than `min_score` are dropped.

    Raises DataError naming archive member and row, ConfigError for another domain.
    """
    for domain in domains:
        if domain not in FILES:
            raise ConfigError(f"data.options.domains: {unknown('domain', domain, FILES)}")
    [(inner, content)] = _archives.members(path, NESTED).items()
    nested = _archives.Nested(f"{path.name}:{inner}", content)
    for domain in domains:
        [(name, data)] = _archives.members(nested, f"*/{FILES[domain]}").items()
        lines = _strict.decode(data, f"{path.name}:{name}").rstrip("\r\n").split("\n")
        for number, line in enumerate(lines, start=1):
            yield _record(line.rstrip("\r"), domain, min_score, f"{path.name}:{name}:{number}")


def _record(line: str, domain: str, min_score: float, place: str) -> dict:
    try:
        number, rating, text = line.split("\t")
        score = float(rating)
    except ValueError:
        raise DataError(f"{place}: not a record ({line[:40]!r}); expected id, rating and text between tabs") from None
    record = {
        "input": _strict.field(text, place),
        "target": LABELS[score > 0],
        "id": f"{domain}_{number}",
        "source": domain,
        "rating": score,
        "group": f"{domain}_{number.partition('_')[0]}" if domain in DOCUMENTED else None,
    }
    unsure = abs(score) < min_score or score == 0
    return record | ({"drop": f"rating nearer to zero than {min_score}"} if unsure else {})
