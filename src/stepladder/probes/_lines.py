"""The JSON lines of one member of an archive that a probe reads."""

import json
from pathlib import Path

from stepladder.sources import _archives


def read(archive: Path, member: str) -> list[dict]:
    """Return the objects in their order; raises what reading an archive raises."""
    (content,) = _archives.members(archive, member).values()
    return [json.loads(line) for line in content.decode("utf-8").splitlines() if line.strip()]
