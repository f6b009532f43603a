"""Shared by the tests: tiny random models with real tokenizers, a few labelled sentences, composed sections."""

import itertools
import random
import string
import warnings
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from stepladder.rules import HEADED
from tests import capabilities, scoreboard
from tests.scoreboard import tally  # noqa: F401  a fixture for every test

GOOD, BAD = ("fine", "lovely", "moving", "clever"), ("dull", "flat", "noisy", "wooden")
COMMON = ("a film", "the plot", "its long second act", "music", "every scene of it", "an actor")
LETTERS = string.ascii_lowercase + string.digits + string.punctuation
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
OPTIMIZER = {"_target_": "torch.optim.AdamW", "learning_rate": 3e-3, "weight_decay": 0.01, "betas": [0.9, 0.999]}
TRAINER = {
    "max_epochs": 1, "batch_size": 8, "accumulate": 1, "eval_batch_size": 8, "max_length": 64, "precision": "32-true",
    "gradient_clip": 1.0, "monitor": "loss", "patience": 5, "checks_per_epoch": 1,
}  # fmt: skip
LORA = {
    "_target_": "peft.LoraConfig", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear",
}  # fmt: skip
CHAT = (  # ChatML
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TASKS = {
    "classification": {"metric": "accuracy", "labels": {"bad": "bad", "good": "good"}},
    "multilabel": {"metric": "micro_f1", "labels": None, "separator": "|", "threshold": 0.5},
    "regression": {"metric": "mean_absolute_error", "labels": None, "scale": {"low": 1, "high": 5, "step": None}},
    "generation": {"metric": "chrf", "labels": None},
    "language_modeling": {"metric": "bits_per_byte", "labels": None},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew from what is measured")
    parser.addoption("--scoreboard", metavar="FILE", help="keep what the injected faults add up to in this file")
    parser.addoption("--capabilities", metavar="PATH", help="write PATH.md and PATH.json, what the passed tests show")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(scoreboard.Scoreboard(config.getoption("--scoreboard")))
    config.pluginmanager.register(capabilities.Capabilities(config.getoption("--capabilities")))


@pytest.fixture(autouse=True)
def _by_itself(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what loads torch use one thread, products as on any machine, and tokens that this session made."""
    if request.node.get_closest_marker("slow"):
        import torch

        torch.set_num_threads(1)
        folder = request.getfixturevalue("tmp_path_factory").getbasetemp() / "kept"
        monkeypatch.setattr("stepladder.store.kept", lambda kind: folder / kind)
        monkeypatch.setattr("stepladder.forecast.TRIED", {})
        monkeypatch.setattr("stepladder.examples._last", {})
        if request.path.name != "test_float32.py":
            monkeypatch.setattr("stepladder.float32.exact", lambda: False)


def sentences(number: int, *, seed: int = 0) -> pl.DataFrame:
    """Return `number` different records of one to twelve phrases, labelled good or bad by the words in them."""
    chance = random.Random(seed)
    rows = []
    for i in range(number):
        target = ("bad", "good")[i % 2]
        words = [chance.choice(COMMON) for _ in range(chance.randint(0, 11))]
        words.insert(chance.randint(0, len(words)), chance.choice(GOOD if target == "good" else BAD))
        rows.append({"id": f"r{seed}_{i}", "input": f"{' '.join(words)} {i}", "target": target, "source": "film"})
    return pl.DataFrame(rows).with_columns(pl.lit(None, pl.String).alias(name) for name in ("group", "timestamp"))


@pytest.fixture(scope="session")
def reviews() -> pl.DataFrame:
    """Forty labelled records of different lengths."""
    return sentences(40)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the random models bert, distilbert, llama (as chat, with a template) and t5 of two layers."""
    import torch
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    from stepladder import models, vocabulary

    folder, texts = tmp_path_factory.mktemp("tiny"), sentences(200, seed=9)["input"].to_list()
    words = _word_pieces()
    torch.manual_seed(0)
    shape = {"vocab_size": len(words), "max_position_embeddings": 128, "initializer_range": 0.3}
    distil = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    encoders = {
        "bert": BertModel(BertConfig(**shape, **SIZES)),
        "distilbert": DistilBertModel(DistilBertConfig(**shape, **distil)),
    }
    prompts = ["Text: {}\nLabel: good\n\nText: {}\nLabel: bad".format(*pair) for pair in itertools.pairwise(texts)]
    pieces = vocabulary.learn(prompts, vocab_size=320, context_length=256)
    llama = models.llama({"vocab_size": 320, "context_length": 256, **SIZES}, pieces, seed=0)
    for weight in llama.parameters():
        weight.data *= 1 if weight.ndim == 1 else 8  # far from uniform, so that a wrong position shows
    for name, model in encoders.items():
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    llama.save_pretrained(folder / "llama")
    pieces.save_pretrained(folder / "llama")
    _t5(pieces).save_pretrained(folder / "t5")
    pieces.save_pretrained(folder / "t5")
    llama.save_pretrained(folder / "chat")
    pieces.chat_template = CHAT
    pieces.save_pretrained(folder / "chat")
    return folder


def _t5(pieces):
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    ends = {"pad_token_id": pieces.pad_token_id, "eos_token_id": pieces.eos_token_id}
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=len(pieces), decoder_start_token_id=pieces.pad_token_id, **shape, **ends)
    )
    for weight in model.parameters():
        weight.data *= 1 if weight.ndim == 1 else 2
    return model


def _word_pieces():
    from transformers import BertTokenizerFast

    words = {word for phrase in (*GOOD, *BAD, *COMMON) for word in phrase.split()} - set(LETTERS)
    ends = (f"##{letter}" for letter in LETTERS)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words), *LETTERS, *ends]
    return BertTokenizerFast(vocab={piece: index for index, piece in enumerate(pieces)})


@pytest.fixture(scope="session")
def choose() -> Callable[..., dict]:
    """Return a function that gives the composed sections of a candidate; what it is not told is null or tiny."""

    def sections(level: str, model: str, /, *, task: str = "classification", **changes) -> dict:
        words = {} if task in HEADED else {"instruction": None, "input_name": "Text", "answer_name": "Label"}
        trained = level in ("finetune", "pretrain")
        response = task not in ("language_modeling", *HEADED) and model not in (
            "bert",
            "distilbert",
            "majority",
            "tfidf",
        )
        prompt = {"name": "zero_shot", "template": "{input_name}: {input}\n{answer_name}:", "num_shots": 0}
        found = {
            "candidate": None, "seed": 7, "corpus": None, "level": {"name": level}, "split": None, "gate": None,
            "data": {"name": "films", "max_rows": None, "canaries": None},
            "task": {"name": task, **TASKS[task], **words},
            "model": {"name": model, "ngram_max": 2, "min_count": 1, "C": 1.0},
            "method": {"name": "full"} if level == "finetune" else None,
            "objective": {"name": "response" if response else "supervised"} if task != "language_modeling" else None,
            "prompt": {**prompt, "separator": "\n\n"} if response else None,
            "decoding": {"max_new_tokens": 4, "num_beams": 1} if task == "generation" else None,
            "optimizer": OPTIMIZER if trained else None,
            "scheduler": {"name": "linear", "warmup_share": 0.1} if trained else None,
            "curriculum": None, "mixture": None, "tasks": {},
            "trainer": None if level == "baseline" else TRAINER if trained else _inference(),
            "runtime": {
                "log_every_s": 10.0, "num_workers": 0, "tracking_uri": None, "experiment": "tiny", "meter": False,
                "public_key": None,
            },
            "sweep": None, "overrides": [], "options": {}, "code": {},
        }  # fmt: skip
        for name, value in changes.items():
            merged = isinstance(value, dict) and isinstance(found[name], dict) and name not in ("method", "objective")
            found[name] = {**found[name], **value} if merged else value
        return found

    return sections


def _inference() -> dict:
    return {key: TRAINER[key] for key in ("eval_batch_size", "max_length", "precision")}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow store without experiments; making its tables takes seconds, copying it none."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of SQLAlchemy, about MLflow's own code
        MlflowClient(f"sqlite:///{file}")
    return file
