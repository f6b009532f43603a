"""axe-core as a judge: nothing on the leaderboard's page is in the way of a screen reader, in light and in dark.

make judge      with chromium and npm, which brings axe-core; without them it is skipped
Source: https://github.com/dequelabs/axe-core/blob/develop/doc/API.md
"""

import html
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from stepladder import leaderboard
from stepladder.report import leaderboard as report
from tests.test_leaderboard import story

pytestmark = pytest.mark.judge
AXE = "axe-core@4.14.1"
CHROMIUM = ("chromium", "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--virtual-time-budget=60000")
DARK = "--blink-settings=preferredColorScheme=0"
ASKED = """<script>{axe}</script><script>
document.querySelectorAll("details").forEach(each => each.open = true);
axe.run().then(found => document.body.append(Object.assign(document.createElement("pre"),
  {{id: "found", textContent: JSON.stringify([found.passes.length, found.violations])}})));
</script></body>"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The script of axe-core, from the npm registry."""
    for program in ("chromium", "npm"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}")
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, check=True)
    with tarfile.open(folder / packed.stdout.strip()) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def judged(page: str, axe: str, folder: Path, *options: str) -> tuple[int, list[dict]]:
    """Return how many rules the page keeps, and those that it breaks."""
    (folder / "page.html").write_text(page.replace("</body>", ASKED.format(axe=axe)), encoding="utf-8")
    command = [*CHROMIUM, *options, "--dump-dom", f"file://{folder / 'page.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("story")
    board = leaderboard.assemble(root, story(root))
    board["rows"][0]["curves"] = {"train/loss": [[1, 0.7], [9, 0.5]], "val/loss": [[5, 0.6], [9, 0.5]]}
    return report.page(board)


@pytest.mark.parametrize("options", [(), (DARK,), ("--window-size=390,844",)], ids=["light", "dark", "phone"])
def test_nothing_on_the_page_is_in_the_way_of_a_screen_reader(page, axe, tmp_path, options):
    kept, broken = judged(page, axe, tmp_path, *options)
    assert kept > 20 and not [(each["id"], each["nodes"][0]["html"][:200]) for each in broken]


def test_a_picture_without_words_is_found(page, axe, tmp_path):
    _, broken = judged(page.replace("</main>", '<img src="data:,"></main>'), axe, tmp_path)
    assert [each["id"] for each in broken] == ["image-alt"]
