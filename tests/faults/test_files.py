"""A10, B4-B8: a file that is not the one that was made is refused with code 4, its name and both hashes."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from stepladder import provenance, signing, store
from stepladder.report import card
from tests.faults.workshop import Workshop

pytestmark = pytest.mark.slow


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGE = {"cut": lambda content: content[: len(content) // 2], "flipped": flipped, "empty": lambda content: b""}
READ = [  # what a stage reads, and by which stage and candidate
    ("evaluate", "lora", "models/lora/adapter_model.safetensors", "flipped"),
    ("evaluate", "lora", "models/lora/tokenizer.json", "cut"),
    ("evaluate", "lora", "models/lora/adapter_config.json", "empty"),
    ("evaluate", "lora", "state/tiny/bert/model.safetensors", "flipped"),
    ("evaluate", "scratch", "models/scratch/model.safetensors", "flipped"),
    ("evaluate", "frozen", "models/frozen/head.safetensors", "empty"),
    ("evaluate", "majority", "models/majority/stepladder.json", "flipped"),
    ("evaluate", "majority", "data/sample_reviews/test.parquet", "flipped"),
    ("sweep", "lora", "state/tiny/bert/tokenizer.json", "flipped"),
    ("train", "lora", "data/sample_reviews/train.parquet", "flipped"),
    ("train", "majority", "data/sample_reviews/val.parquet", "cut"),
    ("train", "scratch", "data/sample_plain_english/train.parquet", "empty"),
]  # fmt: skip


def altered(file: Path, kind: str) -> None:
    """Damage a file and, where its size stays, keep its time as well: DVC sees no difference."""
    before, content = file.stat(), file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(DAMAGE[kind](content))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def resealed(folder: Path, change) -> None:
    """Change a model as its author could, with a manifest that fits."""
    facts = {name: value for name, value in store.manifest(folder).items() if name != "files"}
    for file in folder.iterdir():
        file.chmod(0o644)
    change(folder)
    (folder / store.MANIFEST).unlink()
    store.seal(folder, **facts)


def credulous() -> None:
    """The negative control: no hash is compared."""
    store.require = lambda *words, **options: None


@pytest.mark.fault("B4", "B5")
@pytest.mark.parametrize(("stage", "candidate", "name", "kind"), READ)
def test_an_altered_file_is_refused_with_both_hashes(stage, candidate, name, kind, finished_workshop, tmp_path, tally):
    made = finished_workshop.copy(tmp_path / "project")
    before = store.sha256(made.path / name)
    altered(made.path / name, kind)
    done = made.run(stage, *made.of(candidate), STEPLADDER_FRESH="1")
    tally(tracebacks="Traceback" in done.said)
    assert done.process.exitcode == 4 and "Traceback" not in done.said
    assert f"error[4] {name}: expected sha256 {before}, found {store.sha256(made.path / name)}" in done.said


@pytest.mark.fault("B4")
def test_a_damaged_result_is_made_again(finished_workshop, tmp_path):
    made = finished_workshop.copy(tmp_path / "project")
    before = made.hashes("models/lora", "predictions/val/lora.parquet")
    (result,) = made.path.glob("state/train/lora-*/result")
    altered(result / "model" / "adapter_model.safetensors", "flipped")
    said = made.works("train", *made.of("lora"))
    assert "result/model/adapter_model.safetensors: expected sha256" in said and "making it again" in said
    assert made.hashes(*before) == before


@pytest.mark.fault("B4")
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_of_the_best_weights_is_refused_where_torch_reads_it(kind, tmp_path):
    import torch

    from stepladder import checkpoints
    from stepladder.errors import IntegrityError

    file = tmp_path / "best.ckpt"
    torch.save({"weights": torch.zeros(9000)}, file)
    assert checkpoints.read(file)["weights"].sum() == 0
    altered(file, kind)
    if kind == "flipped":
        assert torch.load(file, weights_only=True)["weights"].count_nonzero() == 1  # nothing is noticed
    with pytest.raises(IntegrityError, match=r"best.ckpt: damaged .*STEPLADDER_FRESH=1"):
        checkpoints.read(file)


def other_base(made: Workshop) -> None:
    """Put other weights of the same shape in the place of the base, and describe them as fetched."""
    from safetensors.torch import load_file, save_file

    file = made.path / "state" / "tiny" / "bert" / "model.safetensors"
    save_file({key: weight.flip(0).contiguous() for key, weight in load_file(file).items()}, file, {"format": "pt"})
    made.works("fetch", *made.of("lora"))


@pytest.mark.fault("B6")
def test_an_adapter_on_another_base_is_refused(finished_workshop, tmp_path):
    made = finished_workshop.copy(tmp_path / "project")
    answers = made.hashes("predictions/test/lora.parquet")
    other_base(made)
    done = made.run("evaluate", *made.of("lora"))
    assert done.process.exitcode == 4 and "Traceback" not in done.said
    assert "state/tiny/bert/model.safetensors: expected sha256" in done.said and "for models/lora" in done.said
    assert made.hashes(*answers) == answers
    assert made.run("evaluate", *made.of("lora"), fault=credulous).process.exitcode == 0
    assert made.hashes(*answers) != answers, "without the guard other answers come of it, silently"


def weights_changed(change):
    def changed(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return changed


def renamed(weights: dict) -> dict:
    return {key.replace("lora_A", "lora_C") if "query" in key else key: weight for key, weight in weights.items()}


def without_one(weights: dict) -> dict:
    return {key: weight for key, weight in weights.items() if key != min(weights)}


def with_nan(weights: dict) -> dict:
    weights[min(weights)][0] = float("nan")
    return weights


def of_another_rank(weights: dict) -> dict:
    return {key: weight[:1].contiguous() if "lora_A" in key else weight for key, weight in weights.items()}


def of_later_peft(folder: Path) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_version": "9.0", "quantum": True}))


CHANGES = {
    "renamed": (weights_changed(renamed), r"weights missing: base_model.*lora_A.*left over: .*lora_C"),
    "missing": (weights_changed(without_one), r"1 weights missing: base_model"),
    "not a number": (weights_changed(with_nan), r"1 weights not finite: base_model"),
    "another rank": (weights_changed(of_another_rank), r"cannot be opened: .*size mismatch for base_model.*lora_A"),
    "later schema": (of_later_peft, r"cannot be opened: .*'quantum'.*upgrade the PEFT version before"),
}


@pytest.mark.fault("B7", "B8")
@pytest.mark.parametrize("kind", CHANGES)
def test_an_adapter_that_does_not_fit_is_refused_with_its_keys(kind, finished_workshop, tmp_path):
    made = finished_workshop.copy(tmp_path / "project")
    change, told = CHANGES[kind]
    resealed(made.path / "models" / "lora", change)
    done = made.run("evaluate", *made.of("lora"))
    assert done.process.exitcode == 4 and "Traceback" not in done.said
    (line,) = [line for line in done.said.splitlines() if line.startswith("error[4] models/lora")]
    assert re.search(told, line), line


@pytest.mark.fault("A10")
@pytest.mark.parametrize("candidate", ["majority", "scratch"])
def test_what_is_finished_and_not_noted_is_published_again(candidate, finished_workshop, tmp_path):
    """As DVC leaves it that died before its lock file: outputs deleted, dvc.lock silent, the same command again."""
    made = finished_workshop.copy(tmp_path / "project")
    outputs = (f"models/{candidate}", f"predictions/val/{candidate}.parquet")
    before = made.hashes(*outputs)
    shutil.rmtree(made.path / outputs[0])
    (made.path / outputs[1]).unlink()
    assert "train rows" not in made.works("train", *made.of(candidate))
    assert made.hashes(*outputs) == before


@pytest.mark.fault("G8")
def test_equal_trainings_end_with_equal_manifests_that_name_all_that_determined_them(finished_workshop, tmp_path):
    made = finished_workshop.copy(tmp_path / "project")
    file = made.path / "models" / "lora" / store.MANIFEST
    before, told = file.read_bytes(), store.manifest(file.parent)
    assert told.keys() == {"files", "base", "key", "seed", "data", "versions"}
    assert told["base"] == {"folder": "state/tiny/bert", "files": store.hashes(made.path / "state" / "tiny" / "bert")}
    assert {"adapter_model.safetensors", "tokenizer.json", "stepladder.json", "history.jsonl"} <= told["files"].keys()
    made.works("train", *made.of("lora"), STEPLADDER_FRESH="1")
    assert file.read_bytes() == before


def lengthened(file: Path) -> None:
    file.chmod(0o644)
    file.write_text(file.read_text() + "\n")


WEIGHTS = "artifacts/model/model.safetensors"
SIGNED = {  # what is done to a registered version -> what is said of it; a version's code runs where it is loaded
    "its code changed": (lambda made: lengthened(made / "serving.py"), "Hash mismatch for 'serving.py'"),
    "its weights changed": (lambda made: altered(made / WEIGHTS, "flipped"), "model.safetensors'"),
    "its card changed": (lambda made: altered(made / "artifacts/model/README.md", "cut"), "artifacts/model/README.md'"),
    "code added": (lambda made: made.joinpath("sitecustomize.py").touch(), "Extra files .*: sitecustomize.py"),
    "its signature lost": (lambda made: made.joinpath("model.sig").unlink(), "model.sig: not there"),
}  # fmt: skip


@pytest.fixture(scope="module")
def signed(finished_workshop, empty_store, tmp_path_factory) -> Workshop:
    """The finished project with a champion, registered and signed by a key of its own."""
    made = finished_workshop.copy(tmp_path_factory.mktemp("signed") / "project")
    (made.path / "mlflow.db").write_bytes(empty_store.read_bytes())
    board = json.loads((made.path / "reports/leaderboard.json").read_text())
    board["registration"] |= {"passed": True, "candidate": "frozen"}  # tiny random models beat no baseline
    (made.path / "reports/leaderboard.json").write_text(json.dumps(board))
    key = ec.generate_private_key(ec.SECP256R1())
    form, pem = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (made.path / "private.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    (made.path / "public.pem").write_bytes(public)
    wanting(made, "null", "public.pem")
    refused = made.run("register", *made.of("compare"))
    assert refused.process.exitcode == 2 and f"name the private key: {signing.KEY}" in refused.said
    made.works("register", *made.of("compare"), **{signing.KEY: "private.pem"})
    (made.path / "asked.csv").write_text("input\na fine film\n")
    return made


def wanting(made: Workshop, old: str, new: str) -> None:
    for file in (made.path / "build").glob("*.yaml"):
        made.edit(f"build/{file.name}", f"public_key: {old}", f"public_key: {new}")


@pytest.mark.fault("G8")
@pytest.mark.capability(47)
@pytest.mark.parametrize("kind", SIGNED)
def test_a_version_that_is_not_as_it_was_signed_is_named_and_neither_loaded_nor_promoted(kind, signed, tally):
    made = (signed.path / "mlruns" / "models").glob("*/artifacts")
    version = max(made, key=lambda folder: folder.stat().st_mtime_ns)  # the workshop may hold earlier ones
    kept = signed.path / "kept"
    shutil.copytree(version, kept)
    change, told = SIGNED[kind]
    words = {"predict": ("asked.csv", "answers.csv"), "promote": ("--to", "1"), "serve": (), "verify": ()}
    try:
        if kind == "its code changed":
            assert "1 rows answered by" in signed.works("predict", *words["predict"])
        change(version)
        for stage in words if kind == "its code changed" else ("predict", "promote"):
            done = signed.run(stage, *words[stage])
            assert done.process.exitcode == 4 and "Traceback" not in done.said
            (line,) = [line for line in done.said.splitlines() if line.startswith("error[4] models:/")]
            assert re.search(told, line) and "python -m pipelines.promote --to N" in line, line
            tally(tracebacks="Traceback" in done.said)
        if kind == "its code changed":  # the negative control
            wanting(signed, "public.pem", "null")
            assert "1 rows answered by" in signed.works("predict", *words["predict"])
            wanting(signed, "null", "public.pem")
    finally:
        shutil.rmtree(version)
        kept.rename(version)


@pytest.mark.fault("G8")
def test_a_signed_version_carries_its_card_and_its_bill_and_is_verified_with_the_rest(signed, monkeypatch):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from huggingface_hub import ModelCard

    assert "every file is the one that was made" in signed.works("verify")
    made = (signed.path / "mlruns" / "models").glob("*/artifacts/artifacts/model")
    folder = max(made, key=lambda folder: folder.stat().st_mtime_ns)
    store.verify(folder)
    data = ModelCard.load(folder / "README.md").data
    scores = json.loads((signed.path / "metrics/frozen.json").read_text())["test"]
    assert {result.metric_type: result.metric_value for result in data.eval_results}.items() <= scores.items()
    text = (folder / "bom.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert {"torch", "transformers", "mlflow"} <= {part["name"] for part in json.loads(text)["components"]}
    monkeypatch.chdir(signed.path)
    for name in ("zero_shot", "full", "lora", "scratch"):  # any of them may be the next one
        told = ModelCard(card.markdown(provenance.of(name, "next", []))).data
        assert told.model_name == f"next: {name}" and told.base_model == {"scratch": None}.get(name, told.base_model)
