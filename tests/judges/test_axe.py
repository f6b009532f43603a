"""axe-core as a judge: nothing on the leaderboard's page is in the way of a screen reader, in light and in dark.

make judge      with chromium and npm, which brings axe-core; without them it fails
A phone is a frame of its width: a window of a headless Chromium is never narrower than 500 pixels.
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
CHROMIUM = ("chromium", "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--virtual-time-budget=60000",
            "--window-size=1280,900")  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
PHONE = 390  # pixels
FRAME = '<!doctype html><body style="margin: 0"><iframe srcdoc="{}" style="border: 0; width: {}px; height: 844px">'
ASKED = """<script>{axe}</script><script>
const names = () => [...document.querySelectorAll("#main tbody th")].map(each => each.dataset.value);
const seen = {{width: innerWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches, before: names()}};
[...document.querySelectorAll("#main thead button")].find(each => each.textContent === "Candidate").click();
document.querySelectorAll("details").forEach(each => each.open = true);
Object.assign(seen, {{after: names(), needed: document.documentElement.scrollWidth}});
axe.run().then(found => parent.document.body.append(Object.assign(parent.document.createElement("pre"),
  {{id: "found", textContent: JSON.stringify({{...seen, kept: found.passes.length, broken: found.violations}})}})));
</script></body>"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The script of axe-core, from the npm registry."""
    for program in ("chromium", "npm"):
        if not shutil.which(program):
            pytest.fail(f"{program} is not there: apt-get install {program}", pytrace=False)
    folder = tmp_path_factory.mktemp("axe")
    packed = subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, capture_output=True, text=True, check=True)
    with tarfile.open(folder / packed.stdout.strip()) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def judged(page: str, axe: str, folder: Path, *, dark: bool = False, width: int | None = None) -> dict:
    """Return what a browser sees of a page: rules of axe that it keeps and breaks, order of the table, width, colours.

    needed: how wide the page is; before and after: the candidates of the table, and those when their header is clicked.
    """
    page = page.replace("</body>", ASKED.format(axe=axe))
    (folder / "page.html").write_text(FRAME.format(html.escape(page), width) if width else page, encoding="utf-8")
    command = [*CHROMIUM, *([DARK] if dark else []), "--dump-dom", f"file://{folder / 'page.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', shown, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("story")
    board = leaderboard.assemble(root, story(root))
    board["rows"][0]["curves"] = {"train/loss": [[1, 0.7], [9, 0.5]], "val/loss": [[5, 0.6], [9, 0.5]]}
    return report.page(board)


@pytest.mark.parametrize(("dark", "width"), [(False, None), (True, None), (False, PHONE), (True, PHONE)])
def test_nothing_on_the_page_is_in_the_way_of_a_screen_reader(axe, page, tmp_path, dark, width):
    seen = judged(page, axe, tmp_path, dark=dark, width=width)
    assert seen["kept"] > 20 and not [(each["id"], each["nodes"][0]["html"][:200]) for each in seen["broken"]]
    assert seen["dark"] == dark and (seen["width"] == width if width else seen["width"] > 1000)
    assert seen["needed"] <= seen["width"], "the page can be pushed sideways"


def test_a_click_on_a_header_puts_the_rows_in_its_order(axe, page, tmp_path):
    seen = judged(page, axe, tmp_path)
    assert seen["before"] != seen["after"] == sorted(seen["before"]) and seen["before"][0] == "full"


def test_a_picture_without_words_and_one_wider_than_a_phone_are_found(axe, page, tmp_path):
    wide = '<img src="data:," style="width: 600px; height: 9px">'
    seen = judged(page.replace("</main>", f"{wide}</main>"), axe, tmp_path, width=PHONE)
    assert [each["id"] for each in seen["broken"]] == ["image-alt"] and seen["needed"] >= 600 > seen["width"]
