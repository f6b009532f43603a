"""Served is measured: every level, form and head, packed as it is registered, over HTTP and in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stepladder import equality, predictions
from tests.conftest import LORA
from tests.test_levels import CASES, data, made  # noqa: F401  (a fixture)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*inferred as AnyType:UserWarning"),  # of a class inside MLflow
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette"),
]
SERVED = [name for name, case in CASES.items() if case[0] != "baseline" and case[2] != "language_modeling"]
HALVED = {  # the precisions of devices with bf16 units, which any other computes too
    "prompt in bf16": ("prompt", "llama", "classification", {"trainer": {"precision": "bf16-true"}}),
    "full in bf16": ("finetune", "bert", "classification", {"trainer": {"precision": "bf16-mixed"}}),
    "lora in bf16": ("finetune", "llama", "classification", {"method": LORA, "trainer": {"precision": "bf16-mixed"}}),
    "frozen in bf16": (
        "finetune",
        "bert",
        "classification",
        {"method": {"name": "frozen"}, "trainer": {"precision": "bf16-mixed"}},
    ),
}
METRICS = {"classification": "accuracy", "multilabel": "micro_f1", "generation": "chrf"}
METRICS |= {"regression": "mean_absolute_error"}
ASK = """
import sys
sys.modules["stepladder"] = None  # served without it
import json, mlflow, pandas
given, found = json.load(sys.stdin), {}
for name, (path, texts) in given.items():
    model = mlflow.pyfunc.load_model(path)
    found[name] = json.loads(model.predict(pandas.DataFrame({"input": texts})).to_json())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def packed(made, tmp_path_factory):  # noqa: F811
    """Return a function from a case to the folder that MLflow would register of it."""
    import mlflow

    from stepladder import answering, registry

    known = {}

    def one(name: str) -> Path:
        if name not in known:
            folder = tmp_path_factory.mktemp("packed")
            answerer = answering.load(made(name)[1])
            description = answerer.description
            answerer.export(folder / "whole")
            mlflow.pyfunc.save_model(
                folder / "made", **registry.package(folder / "whole", description, example="a film")
            )
            known[name] = folder / "made"
        return known[name]

    return one


@pytest.fixture(autouse=True, scope="module")
def _halved():
    CASES.update(HALVED)
    yield
    for name in HALVED:
        CASES.pop(name)


def served(columns: dict, rows: pl.DataFrame, task: str) -> pl.DataFrame:
    return predictions.served(rows, {name: list(values) for name, values in columns.items()}, task)


def require_equal(columns: dict, name: str, made) -> None:  # noqa: F811
    _, _, task, changes = CASES[name]
    rows, precision = data(task, 12, seed=1), changes.get("trainer", {}).get("precision", "32-true")
    measured = made(name)[0].predict(rows)
    options = {"metric": METRICS[task], "precision": precision}
    fault, moved = equality.difference(measured, served(columns, rows, task), **options)
    if "bf16" in precision:  # of twelve rows one may be moved over the line
        shares = [predictions.matrix(each) for each in (measured, served(columns, rows, task))]
        assert len(moved) <= 1 and abs(shares[0] - shares[1]).max(axis=1).mean() < equality.MEAN_MOVED
    else:
        assert (fault, moved) == (None, [])


def posted(client, rows: pl.DataFrame, **params) -> dict:
    asked = {"dataframe_records": rows.select("input").to_dicts()} | ({"params": params} if params else {})
    answer = client.post("/invocations", json=asked)
    assert answer.status_code == 200, answer.text
    told = answer.json()["predictions"]
    return {key: [row[key] for row in told] for key in told[0]}


def listening(path: Path):
    import mlflow
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    return TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(path))))


@pytest.mark.capability(33)
@pytest.mark.parametrize("name", [*SERVED, *HALVED])
def test_over_http_each_level_form_and_head_answers_as_it_was_measured(name, made, packed):  # noqa: F811
    rows = data(CASES[name][2], 12, seed=1)
    require_equal(posted(listening(packed(name)), rows), name, made)


@pytest.mark.capability(33)
def test_in_a_fresh_process_without_stepladder_they_do_too(made, packed):  # noqa: F811
    asked = {name: (str(packed(name)), data(CASES[name][2], 12, seed=1)["input"].to_list()) for name in SERVED}
    command = [sys.executable, "-W", "ignore", "-c", ASK]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, columns in json.loads(done.stdout.splitlines()[-1]).items():
        require_equal({key: list(values.values()) for key, values in columns.items()}, name, made)


def test_a_package_says_what_it_takes_and_gives_and_shows_an_example(packed):
    import mlflow

    for name in ("frozen", "scratch writes"):
        model = mlflow.models.Model.load(str(packed(name)))
        assert model.signature.inputs.input_names() == ["input"]
        labels = [] if name == "scratch writes" else ["bad", "good"]
        assert model.signature.outputs.input_names() == ["answer", *labels]
        assert model.load_input_example(str(packed(name))) == {"input": "a film"}
        params = [] if model.signature.params is None else [param.name for param in model.signature.params.params]
        assert params == ([] if labels else ["temperature", "top_k", "top_p", "seed", "max_new_tokens"])


def test_a_model_that_writes_takes_the_parameters_of_its_decoding(packed):
    rows, client = data("generation", 6, seed=1), listening(packed("scratch writes"))

    def written(**params) -> list[str]:
        return posted(client, rows, **params)["answer"]

    assert written() == written(temperature=0.0) == written(temperature=0.0, top_k=3, top_p=0.5, seed=4)
    chance = {"temperature": 5.0, "max_new_tokens": 12}
    assert written(**chance, seed=1) == written(**chance, seed=1) != written(**chance, seed=2)
    one = posted(client, rows.tail(1), **chance, seed=1)["answer"]
    assert one == written(**chance, seed=1)[-1:], "an answer depends on those before it"
    assert written(**chance, top_k=1) == written(max_new_tokens=12)
    assert max(map(len, written(max_new_tokens=1))) < max(map(len, written(max_new_tokens=12)))
    for wrong in ({"temperature": -1.0}, {"top_p": 2.0}, {"max_new_tokens": 0}):
        asked = {"dataframe_records": rows.select("input").to_dicts(), "params": wrong}
        answer = client.post("/invocations", json=asked)
        assert answer.status_code == 400 and f"params.{next(iter(wrong))}: " in answer.text


def classified(shares: list[float]) -> pl.DataFrame:
    told = [{"bad": 1 - share, "good": share} for share in shares]
    answers = ["good" if share > 0.5 else "bad" for share in shares]
    ids = [f"r{row}" for row in range(len(shares))]
    return pl.DataFrame({"id": ids, "target": answers[::-1], "answer": answers, "probabilities": told})


SHARES = np.random.default_rng(0).uniform(0.05, 0.95, 256)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_head_that_leans_elsewhere_is_another_model_although_its_answers_are_the_same(precision):
    measured, weaker = classified(SHARES), classified(0.5 + 0.01 * (SHARES - 0.5))
    assert measured["answer"].equals(weaker["answer"])
    fault, moved = equality.difference(measured, weaker, metric="accuracy", precision=precision)
    if precision == "32-true":
        assert fault.endswith("(not r0, r1, r2, r3, r4)") and len(moved) > 200
    else:
        assert fault.startswith("shares differ by 0.2") and moved == []
    assert equality.difference(measured, measured, metric="accuracy", precision=precision) == (None, [])


def test_one_row_of_many_is_another_answer_in_float32_and_one_that_the_batch_moved_in_bf16():
    near = SHARES.copy()
    near[7] = 0.54
    flipped = near.copy()
    flipped[7] = 0.46
    measured, moved = classified(near), classified(flipped).with_columns(target=classified(near)["target"])
    fault, rows = equality.difference(measured, moved, metric="accuracy", precision="32-true")
    assert fault == "only 99.6% of 256 answers equal those measured (not r7)" and rows == ["r7"]
    assert equality.difference(measured, moved, metric="accuracy", precision="bf16-mixed") == (None, ["r7"])
    half = [frame.head(128) for frame in (measured, moved)]  # of fewer rows one is more than half a point
    assert equality.difference(*half, metric="accuracy", precision="bf16-mixed")[0].startswith("only 99.2%")
    near[7], flipped[7] = 0.51, 0.49
    half = [classified(shares).head(128).with_columns(target=pl.lit("good")) for shares in (near, flipped)]
    assert equality.difference(*half, metric="accuracy", precision="bf16-mixed") == (None, ["r7"]), "it was a tie"
    assert equality.difference(*half, metric="accuracy", precision="32-true")[1] == ["r7"]


def test_bf16_may_move_a_share_far_in_some_rows_and_little_in_all():
    """As in SmolLM2 with a LoRA, whose rows move by .004 on average and .06 at most with their batch."""

    def difference(gaps: np.ndarray) -> str | None:
        before, after = classified(SHARES), classified(np.clip(SHARES + gaps, 0, 1))
        after = after.with_columns(answer=before["answer"], target=before["target"])
        return equality.difference(before, after, metric="accuracy", precision="bf16-mixed")[0]

    some = np.where(np.arange(256) % 32, 0.003, 0.06)
    assert difference(some) is None and difference(4 * some).startswith("shares differ by 0.01")


def test_a_tie_may_fall_to_either_label_and_a_text_in_two_hundred_may_differ():
    tied = [classified([share, *SHARES[1:]]) for share in (0.5 + 1e-6, 0.5 - 1e-6)]
    assert equality.difference(*tied, metric="log_loss", precision="32-true")[0] is None
    texts = [pl.DataFrame({"id": list(map(str, range(256))), "target": "x", "answer": ["a", *"b" * 255]}) for _ in "ab"]
    texts[1] = texts[1].with_columns(answer=pl.Series(["b"] * 256))
    assert equality.difference(*texts, metric="exact_match", precision="32-true") == (None, ["0"])
    assert equality.difference(*(each.head(100) for each in texts), metric="exact_match", precision="32-true")[0]
