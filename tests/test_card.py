"""What travels with a version: its card as Hugging Face reads it, its bill of materials as CycloneDX has it."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from markdown_it import MarkdownIt

from stepladder import leaderboard, materials, provenance, store
from stepladder.report import card
from tests.test_leaderboard import save, story

ARCHIVE = {"kind": "pypi", "package": "words", "version": "1.2", "filename": "words-1.2.tar.gz", "sha256": "a" * 64,
           "members": ["*"], "licence": "MIT (package), Apache-2.0 (weights)"}  # fmt: skip
NAMES = ("majority", "tfidf", "lora", "lora_smollm2", "zero_shot")
HOSTILE = "a|b `c` <script>alert(1)</script>\n# d"
PACKAGES = ("safetensors", "pandas", "mlflow")
CONDITION = {"name": "accuracy", "value": 0.85, "by": "low", "at_least": 0.8, "at_most": None, "passed": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished run in a git repository, as far as a card reads it; a label and a slice have hostile names."""
    root = tmp_path_factory.mktemp("made")
    config = story(root, num_rows=120, num_resamples=100, names=NAMES)
    board = leaderboard.assemble(root, config)
    board["slices"][0]["value"] = HOSTILE
    save(root / "reports/leaderboard.json", board)
    for name in NAMES:
        described(root, name)
    of_data(root, "reviews")
    as_a_person = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (["init", "-q"], ["add", "build"], [*as_a_person, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def described(root: Path, name: str) -> None:
    """Add what stages fetch and train leave of a candidate to what a leaderboard reads of it."""
    config = yaml.safe_load((root / f"build/{name}.yaml").read_text())
    config |= {"seed": 1, "model": {**config["model"], "kind": "encoder", "asset": ARCHIVE}}
    config |= {"optimizer": {"_target_": "torch.optim.AdamW", "learning_rate": 0.5}}
    config |= {"trainer": {"batch_size": 32, "max_epochs": 3}}
    save(root / f"build/{name}.yaml", config)
    won = {"optimizer": {"_target_": "torch.optim.AdamW", "learning_rate": 2e-4}}
    save(root / f"tuned/{name}.yaml", {"sections": won, "key": "searched"})
    fetched = {"name": config["model"]["name"], "folder": "state/x", "licence": ARCHIVE["licence"]}
    save(root / f"assets/{name}.json", fetched | {"files": {"model.safetensors": "b" * 64}})
    folder = root / "models" / name
    facts = {"form": "classifier", "task": "classification", "labels": ["negative", HOSTILE], "reading": None,
             "inference": {"max_length": 128, "precision": "32-true"}}  # fmt: skip
    save(folder / "stepladder.json", json.loads((folder / "stepladder.json").read_text()) | facts)
    save(folder / "config.json", {"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
    store.seal(folder, versions={"torch": "2.13.0"})


def of_data(root: Path, name: str) -> None:
    asset = {**ARCHIVE, "package": "texts", "licence": "MIT"}
    save(root / f"build/data/{name}.yaml", {"data": {"name": name, "asset": asset}})
    save(root / f"assets/data/{name}.json", {"name": name, "files": {ARCHIVE["filename"]: "a" * 64}, "licence": "MIT"})
    lengths = {"input": {"words": {"min": 1, "max": 29}}}
    report = {"rows_in": 1250, "rows_out": 1200, "dropped": {HOSTILE: 50}, "classes": {HOSTILE: {"share": 0.5}}}
    save(root / f"reports/data/{name}.json", report | {"lengths": lengths})
    rows = {"train": 900, "val": 120, "test": 120}
    save(root / f"reports/data/{name}_split.json", {"parts": {part: {"rows": count} for part, count in rows.items()}})


@pytest.fixture
def known(made: Path, monkeypatch) -> dict:
    monkeypatch.chdir(made)
    return provenance.of("lora", "stepladder_reviews", [CONDITION])


def test_the_hub_reads_the_card_and_finds_licence_base_data_and_every_score(known, tmp_path):
    (tmp_path / "README.md").write_text(card.markdown(known), "utf-8")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.base_model, data.datasets) == ("apache-2.0", "minilm", ["reviews"])
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    validate_repo_id(data.base_model)
    assert data.model_name == "stepladder_reviews: lora"
    (row,) = [row for row in known["board"]["rows"] if row["candidate"] == "lora"]
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {name: value for name, value in row["metrics"]["test"].items() if value is not None}
    assert data.metrics == list(found) and data.metrics[0] == "accuracy"
    (first,) = [result for result in data.eval_results if result.metric_type == "accuracy"]
    low, high = row["intervals"]["accuracy"]
    assert first.metric_name == f"accuracy (95 % interval {low:.3f} to {high:.3f})"
    assert first.dataset_revision == store.sha256(Path("data/reviews/test.parquet"))


@pytest.mark.capability(47)
def test_the_card_says_how_good_how_sure_how_weak_and_what_it_is_made_of(known):
    text = card.markdown(known)
    row, worst = known["row"], min(part["scores"]["lora"]["accuracy"] for part in known["board"]["slices"])
    assert f"Accuracy **{row['score']['test']:.3f}**" in text and "against tfidf, the best baseline." in text
    assert f"accuracy {worst[0]:.3f} ({worst[1]:.3f} to {worst[2]:.3f})" in text
    assert f"off by {row['calibration']['before']['calibration_error']:.3f}" in text
    assert "- accuracy is 0.85 (low), wanted at least 0.8" in text
    assert "| AdamW, learning rate 0.0002, batches of 32, at most 3 epochs, precision 32-true, seed 1 |" in text
    assert "The candidate is `level=finetune model=minilm`." in text
    assert "1 to 29 words" in text and "Not asked: memorisation, openbookqa, retention" in text
    assert f"| git | `{known['revision']}` |" in text and f"git checkout {known['revision']}" in text
    for path, md5 in known["hashes"].items():
        assert f"| {path} (DVC, md5) | `{md5}` |" in text
    assert f"`{ARCHIVE['sha256']}`" in text and f"`{'b' * 64}`" in text
    assert "movie_0" not in text and "word word" not in text  # no record of the data


def test_no_name_of_the_users_breaks_a_table_or_becomes_html(known):
    _, _, body = card.markdown(known).partition("\n---\n")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    assert not [one for token in tokens for one in (token, *(token.children or ())) if "html" in one.type]
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    wanted = ["Use", "Data", "Measured", "Limits", "The gate that it passed", "Lineage"]
    assert headings == ["stepladder_reviews: lora", *wanted]
    lines = [line for line in body.splitlines() if line.startswith("|") and not re.fullmatch(r"\|(:?-+:?\|)+", line)]
    assert len(lines) == len([token for token in tokens if token.type == "tr_open"]) > 30
    cells = [tokens[at + 1].children for at, token in enumerate(tokens) if token.type == "td_open"]
    shown = HOSTILE.replace("\n", "<U+000A>")
    assert any(shown in "".join(child.content for child in children) for children in cells)


def test_the_same_run_gives_the_same_bytes_and_another_revision_says_so(known, made):
    again = provenance.of("lora", "stepladder_reviews", [CONDITION])
    folder = Path("models/lora")
    assert card.markdown(again) == card.markdown(known)
    assert materials.bill(again, folder, PACKAGES) == materials.bill(known, folder, PACKAGES)
    changed = Path("build/lora.yaml")
    assert known["changed"] == []
    Path("conf").mkdir()
    Path("conf/mine.yaml").write_text("r: 8")
    other = provenance.of("lora", "stepladder_reviews", [CONDITION])
    assert other["changed"] == ["conf/"] and "not committed in conf/" in card.markdown(other)
    assert changed.is_file()


@pytest.mark.parametrize(
    ("told", "front"),
    [
        (None, {"license": "unknown"}),
        ("CC-BY-SA-4.0", {"license": "cc-by-sa-4.0"}),
        ("see the model card", {"license": "other", "license_name": "see the model card"}),
    ],
)
def test_a_licence_that_the_hub_has_no_word_for_is_told_as_other(told, front, known):
    known["base"] = {**known["base"], "licence": told}
    assert {key: value for key, value in card.front(known).to_dict().items() if "license" in key} == front


def test_a_model_of_its_own_weights_has_no_base_and_one_from_the_hub_the_hubs_name(known):
    hub = {"kind": "hub", "id": "google/flan-t5-small", "revision": "c" * 40, "sha256": None}
    known["base"] = {**known["base"], "assets": [hub]}
    assert ModelCard(card.markdown(known)).data.base_model == "google/flan-t5-small"
    known["base"]["name"] = "reviews"  # as a data set is called, conf/model/hub.yaml and conf/data/hub.yaml
    refs = re.findall(r'"bom-ref": "(.*)"', materials.bill(known, Path("models/lora"), PACKAGES))
    assert len(refs) == len(set(refs)) > 20
    known["base"]["licence"] = None
    assert "| licence of the weights | not stated |" in card.markdown(known), "a base that lies on this machine"
    known["base"] = None
    assert "all weights were trained here" in card.markdown(known)
    assert "base_model" not in card.front(known).to_dict()


@pytest.mark.capability(47)
def test_the_bill_is_valid_and_names_model_base_data_and_packages_with_hashes_and_licences(known):
    folder = Path("models/lora")
    text = materials.bill(known, folder, PACKAGES)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = json.loads(text)
    model = told["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert {part["name"]: part["hashes"][0]["content"] for part in model["components"]} == store.hashes(folder)
    (accuracy,) = [m for m in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
                   if m["type"] == "accuracy" and "slice" not in m]  # fmt: skip
    low, high = known["row"]["intervals"]["accuracy"]
    assert accuracy["confidenceInterval"] == {"lowerBound": str(low), "upperBound": str(high)}
    parts = {part["bom-ref"]: part for part in told["components"]}
    base, data = parts["machine-learning-model:minilm"], parts["data:reviews"]
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "data:reviews"}]
    assert {"pkg:pypi/words@1.2"} == {part["purl"] for part in base["components"] if "purl" in part}
    assert data["licenses"] == [{"license": {"id": "MIT"}}] and len(data["components"]) == 4  # an archive, three parts
    lineage = {each["name"]: each["value"] for each in told["metadata"]["properties"]}
    assert lineage["stepladder:git"] == known["revision"]
    assert lineage["stepladder:dvc:models/lora"] == known["hashes"]["models/lora"]


def test_the_bill_names_the_packages_that_pip_would_need_and_who_needs_them(known):
    from importlib.metadata import version

    bom = Bom.from_json(json.loads(materials.bill(known, Path("models/lora"), PACKAGES)))
    bom.validate()  # every reference of the graph is there
    libraries = {part.name: part for part in bom.components if part.type.value == "library"}
    assert {"safetensors", "pandas", "mlflow", "numpy", "sqlalchemy", "cryptography"} <= libraries.keys()
    assert "dvc" not in libraries and "pytest" not in libraries
    assert libraries["pandas"].version == version("pandas")
    needs = {str(d.ref.value): {str(n.ref.value) for n in d.dependencies} for d in bom.dependencies}
    assert str(libraries["numpy"].purl) in needs[str(libraries["pandas"].purl)]
    assert str(libraries["mlflow"].purl) in needs["machine-learning-model:stepladder_reviews"]


@pytest.mark.parametrize(
    ("task", "labels", "reading", "told"),
    [
        ("classification", ["a", "b`"], None, "one of `a`, `b'`, and how probable each is"),
        (
            "multilabel",
            ["plot", "music"],
            {"threshold": 0.5},
            "those of `plot`, `music` that fit, and how probable each is",
        ),
        ("regression", None, {"scale": {"low": 1, "high": 5, "step": 1}}, "a number from 1 to 5"),
        ("regression", None, {"scale": None}, "a number"),
        ("generation", None, None, "a text"),
    ],
)
def test_what_a_model_answers_is_said_for_every_task(task, labels, reading, told):
    assert card.answers({"task": task, "labels": labels, "reading": reading}) == told
