"""What runs again: one change, `dvc repro configure`, and `dvc status` names the stages whose own inputs changed.

Stages further down follow in `dvc repro` as far as outputs differ.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stories.conftest import PARAMS

pytestmark = [pytest.mark.story, pytest.mark.long]

CANDIDATES = PARAMS["candidates"]
LORA = ("lora",)
STEPS = ("fetch", "sweep", "train", "evaluate", "score", "probe")
METRIC = '''"""Share of answers that are true."""

TASK = "classification"
GREATER_IS_BETTER = True


def compute(frame):
    return float((frame["answer"] == frame["target"]).mean())
'''


def each(*stages: str, of=CANDIDATES) -> set[str]:
    return {f"{stage}@{name}" for stage in stages for name in of}


def edit(name: str, old: str, new: str) -> Callable:
    return lambda project: project.edit(name, old, new)


def comment(name: str) -> Callable:
    return edit(name, "", "# a remark\n")


def with_candidates(change: Callable[[dict], dict]) -> Callable:
    return lambda project: project.params(candidates=change(dict(CANDIDATES)))


def lora(**changes) -> Callable:
    return with_candidates(lambda rows: rows | {"lora": rows["lora"] | {"set": rows["lora"]["set"] | changes}})


def renamed(rows: dict) -> dict:
    return {"words" if name == "tfidf" else name: row for name, row in rows.items()}


def without(rows: dict) -> dict:
    return {name: row for name, row in rows.items() if name != "frozen"}


def new_metric(project) -> None:
    (project.path / "src/stepladder/metrics/share.py").write_text(METRIC)


CHANGES = {  # name -> the change, the stages that dvc status names
    "a value of one candidate": (lora(method={"r": 4}), each("sweep", "train", of=LORA) | {"compare"}),
    "a value of a method's file": (
        edit("conf/method/lora.yaml", "lora_alpha: 16 ", "lora_alpha: 32 "), each("sweep", "train", of=LORA)),
    "the values of a sweep": (edit("conf/sweep/two_rates.yaml", "2.0e-3", "3.0e-3"), each("sweep", of=LORA)),
    "the words of the task": (
        edit("conf/task/sentiment.yaml", "input_name: Review", "input_name: Text"),
        each("sweep", "train") | {"prepare@sample_reviews", "split@sample_reviews", "compare"}),
    "a number of the machine": (edit("conf/runtime/default.yaml", "num_workers: 0", "num_workers: 1"), set()),
    "a module of training": (
        comment("src/stepladder/training.py"),
        each("sweep", "train", "evaluate", "probe", of=("zero_shot", "frozen", "lora", "scratch"))),
    "a level": (
        comment("src/stepladder/levels/prompt.py"), each("sweep", "train", "evaluate", "probe", of=("zero_shot",))),
    "a level that another one builds on": (
        comment("src/stepladder/levels/finetune.py"),
        each("sweep", "train", "evaluate", "probe", of=("frozen", "lora", "scratch"))),
    "a metric": (comment("src/stepladder/metrics/accuracy.py"), each("score") | {"compare"}),
    "one more metric": (new_metric, each("score") | {"compare"}),
    "a module of records": (
        comment("src/stepladder/records.py"),
        each("sweep", "train", "evaluate", "score", "probe") | {"assign", "compare", "register"}
        | {f"{stage}@sample_reviews" for stage in ("prepare", "split")}
        | {f"{stage}_other@sample_plain_english" for stage in ("prepare", "split")}),
    "the file of a stage": (comment("pipelines/score.py"), each("score")),
    "a source": (comment("src/stepladder/sources/jsonl.py"), {"prepare_other@sample_plain_english"}),
    "a byte of the data": (
        edit("samples/plain_english.jsonl", "the harp and organ", "the harp or organ"),
        {"prepare@sample_reviews", "prepare_other@sample_plain_english"}),
    "one candidate more": (
        with_candidates(lambda rows: rows | {"again": rows["tfidf"]}),
        each(*STEPS, of=("again",)) | {"compare", "fetch_probes"}),
    "one candidate less": (with_candidates(without), {"compare", "fetch_probes"}),
    "another name": (
        with_candidates(renamed), each(*STEPS, of=("words",)) | {"compare", "fetch_probes"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(story, tmp_path_factory) -> dict[str, tuple[str, set[str]]]:
    """Return {change: what configure said, stages that dvc status names}, two at a time."""

    def look(name: str) -> tuple[str, set[str]]:
        project = story.copy(tmp_path_factory.mktemp("change") / "repository")
        CHANGES[name][0](project)
        told = project.works("dvc", "repro", "configure")
        return told, set(project.status())

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CHANGES, pool.map(look, CHANGES), strict=True))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_concerns_exactly_these_stages(name, seen):
    follows = {"assign", "register"}  # assign reads build/ and puts out the same; register follows the leaderboard
    assert seen[name][1] - follows == CHANGES[name][1] - follows


def test_what_belongs_to_a_candidate_that_is_gone_is_removed_and_told(seen):
    told = seen["one candidate less"][0]
    for piece in ("assets/frozen.json", "models/frozen", "metrics/frozen.json", "predictions/test/frozen.parquet"):
        assert f"removed {piece}: params.yaml names no frozen" in told


def test_the_leaderboard_follows_a_new_name_and_dvc_runs_no_other_candidate(story, tmp_path):
    project = story.copy(tmp_path / "repository")
    CHANGES["another name"][0](project)
    ran = project.stages_run(project.works("dvc", "repro", "compare"))
    assert {stage.split("@")[1] for stage in ran if "@" in stage} == {"words"}
    names = {row["candidate"] for row in project.json("reports/leaderboard.json")["rows"]}
    assert names == {"words", *CANDIDATES} - {"tfidf"}
