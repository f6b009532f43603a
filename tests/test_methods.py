"""Methods: each file of conf/method/ trains what its name says, and that alone, on each kind of model that can have it.

The number of trained parameters is what the line "# Trained:" of the method's file says, computed from the model alone.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stepladder import compose, shipped
from stepladder.errors import ConfigError, MachineError
from tests import elsewhere
from tests.conftest import LORA, sentences
from tests.test_checkpoints import stopped_after, told_once
from tests.test_training import LABELS, Run

pytestmark = pytest.mark.slow

METHODS = [name for name in shipped.options("method") if name not in ("none", "lora_combined")]  # see test_combining.py
MODELS = {
    "bert": "bert",
    "distilbert": "distilbert",
    "llama": "llama",
    "llama head": "llama",
    "t5": "t5",
}  # a kind and its folder
SMALL = {  # for models of 32 and 48 numbers a token
    "r": 4, "init_r": 4, "target_r": 2, "oft_block_size": 16, "num_virtual_tokens": 5, "encoder_hidden_size": 16,
    "reduction_factor": 4, "layers_per_epoch": 2, "last_layers": 1,
}  # fmt: skip
HEADS = r"classifier|score|pre_classifier"
TRAINED = {  # names of trained tensors
    "full": ".", "gradual": ".", "frozen": "head", "partial": rf"((?<!\d\.)layers?|block)\.1\.|{HEADS}",
    "bitfit": rf"bias$|{HEADS}", "embeddings": rf"word_embeddings|embed_tokens|shared|{HEADS}",
    "ia3": rf"ia3_l|{HEADS}", "vera": rf"vera_lambda|{HEADS}",
    "lora": rf"lora_[AB]|{HEADS}", "dora": rf"lora_[AB]|lora_magnitude_vector|{HEADS}",
    "adalora": rf"lora_[ABE]|{HEADS}", "oft": rf"oft_R|{HEADS}", "boft": rf"boft_[Rs]|{HEADS}",
    "prefix": rf"prompt_encoder|{HEADS}", "houlsby": rf"\.bottleneck\.|{HEADS}",
}  # fmt: skip
LIKE = {
    "rslora": "lora", "qlora": "lora", "lora_plus": "lora", "pissa": "lora", "prompt_tuning": "prefix",
    "prompt_tuning_text": "prefix", "p_tuning": "prefix", "pfeiffer": "houlsby",
}  # fmt: skip
REFUSED = {
    ("frozen", "llama"): None,  # refused at configure: tests/test_strict.py
    ("frozen", "t5"): None,
    ("bitfit", "llama"): "leaves no weight of llama to train",
    ("bitfit", "t5"): "leaves no weight of t5 to train",
    ("prefix", "distilbert"): "distilbert takes no keys and values from outside; a prefix has no place there",
    **{(name, "llama head"): "the head of llama finds its token by the text's ids, which a prompt has none of"
       for name in ("prompt_tuning", "prompt_tuning_text", "p_tuning")},
}  # fmt: skip
PAIRS = [(method, model) for method in METHODS for model in MODELS if (method, model) not in REFUSED]
PAIRS = [pair for pair in PAIRS if pair != ("bitfit", "llama head")]  # a head alone: that is `frozen`
ROWS = {  # of tests/capabilities.yaml
    5: ("full",), 6: ("frozen", "partial", "bitfit", "embeddings", "gradual"), 7: ("lora", "lora_plus", "pissa"),
    8: ("dora", "rslora"), 9: ("qlora",), 10: ("prefix", "prompt_tuning", "prompt_tuning_text", "p_tuning"),
    11: ("houlsby", "pfeiffer", "ia3"),
}  # fmt: skip
ALONE = re.compile(r"decoder\..*SelfAttention\.[qk]\.")  # of a label's one token: no choice, no gradient but rounding
MARKED = [
    pytest.param(*pair, marks=[pytest.mark.capability(row) for row, methods in ROWS.items() if pair[0] in methods])
    for pair in PAIRS
]


def section(method: str) -> dict:
    found = compose.compose([f"method={method}"])["method"]
    return {key: SMALL.get(key, value) if value else value for key, value in found.items()}


def optimizer(method: str) -> dict:
    rate = 2e-3 if section(method).get("name") in ("full", "partial", "gradual") else 1e-2
    return compose.compose([f"method={method}"])["optimizer"] | {"learning_rate": rate}


def sections(choose, method: str, model: str) -> dict:
    head = {"objective": {"name": "supervised"}, "prompt": None} if model == "llama head" else {}
    trainer = {"max_epochs": 3, "gradient_clip": None}
    head |= {"model": {"kind": "encoder_decoder"}} if model == "t5" else {}
    chosen = {"method": section(method), "optimizer": optimizer(method), "trainer": trainer, **head}
    return choose("finetune", MODELS[model], **chosen)


@pytest.fixture(scope="module")
def made(tiny, choose, tmp_path_factory):
    """Return a function from a method and a model to the untouched and the fitted level and its folder."""
    from stepladder import levels

    known = {}

    def fitted(*pair: str) -> tuple:
        if pair not in known:
            folder = tmp_path_factory.mktemp("method")
            one, other = (levels.load("finetune")(sections(choose, *pair), base=tiny / MODELS[pair[1]]) for _ in "ab")
            other.answerer = other._open(sentences(24))
            facts = one.fit(sentences(24), sentences(12, seed=1), state=folder / "state", log=lambda *_: None)
            one.save(folder / "made")
            known[pair] = other, one, folder / "made", facts
        return known[pair]

    return fitted


@pytest.mark.parametrize(("method", "model"), [pair for pair, reason in REFUSED.items() if reason])
def test_what_a_model_cannot_have_is_refused_with_the_reason(method, model, tiny, choose):
    from stepladder import levels

    level = levels.load("finetune")(sections(choose, method, model), base=tiny / MODELS[model])
    with pytest.raises(ConfigError, match=REFUSED[method, model]):
        level._open(sentences(8))


@pytest.mark.parametrize(("method", "model"), MARKED)
def test_the_tensors_that_a_method_names_move_and_no_other(method, model, made):
    before, after, _, _ = made(method, model)
    pattern = re.compile(TRAINED[LIKE.get(method, method)])
    old, new = before.answerer.model.state_dict(), after.answerer.model.state_dict()
    named = {name for name, weight in after.answerer.model.named_parameters() if pattern.search(name)}
    named = {name for name in named if ".original_module." not in name}
    moved = {name for name in named if not old[name].equal(new[name])}
    pruned = {name for name in named if "lora_E" in name and not new[name].any()}  # AdaLoRA's, of a matrix left alone
    alone = {name for name in named if model == "t5" and ALONE.search(name)}
    assert not named - moved - pruned - alone, "these do not learn"
    buffers = new.keys() - dict(after.answerer.model.named_parameters()).keys()
    others = {name for name in old.keys() - named - buffers if not old[name].equal(new[name])}
    assert others <= tied(after.answerer.model, named), "these must not move"
    assert named


def tied(model, named: set[str]) -> set[str]:
    """Return the second names of tensors that are named."""
    weights = model.state_dict(keep_vars=True)
    places = {weights[name].data_ptr() for name in named}
    return {name for name, weight in weights.items() if weight.data_ptr() in places}


@pytest.mark.parametrize(("method", "model"), MARKED)
def test_as_many_parameters_are_trained_as_the_file_of_the_method_says(method, model, made, tiny):
    _, _, _, facts = made(method, model)
    text = (compose.CONF / "method" / f"{method}.yaml").read_text()
    formula = re.search(r"^# Trained: (.+)$", text, re.MULTILINE)[1]
    known = sizes(tiny / MODELS[model], method, head=model not in ("llama", "t5"))
    assert facts["num_trained_parameters"] == eval(formula, {**section(method), **known}), formula


def sizes(base: Path, method: str, *, head: bool) -> dict:
    """Return what the formulas speak of, read off the untouched model."""
    import torch
    from transformers import AutoModel

    from stepladder import models

    with models.opening(base):
        model = AutoModel.from_pretrained(base)
    kind, width, labels = model.config.model_type, model.config.hidden_size, len(LABELS)
    linear = {name: m.weight.shape[::-1] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    names = {"bert": ["encoder.layer"], "distilbert": ["transformer.layer"], "llama": ["layers"]}
    stacks = [model.get_submodule(name) for name in names.get(kind, ["encoder.block", "decoder.block"])]
    sizes = [[sum(w.numel() for w in layer.parameters()) for layer in stack] for stack in stacks]
    heads = {"bert": width * labels + labels, "distilbert": width * (width + 1) + width * labels + labels}
    heads |= {"llama": width * labels if head else 0, "t5": 0}
    scaled = {
        "bert": "(key|value|output.dense)$",
        "distilbert": "(k_lin|v_lin|lin2)$",
        "llama": "(k_proj|v_proj|down_proj)$",
        "t5": r"\.(k|v|wo)$",
    }
    fed = {"bert": "output.dense", "distilbert": "lin2", "llama": "down_proj", "t5": "wo"}[kind]
    behind = {
        "houlsby": "attention.output.dense|[0-9].output.dense|out_lin|lin2|o_proj|down_proj|Attention.o|wo",
        "pfeiffer": "[0-9].output.dense|lin2|down_proj|wo",
    }
    return {
        "labels": labels, "width": width, "head": heads[kind], "linear": list(linear.values()),
        "layers": [sum(layer) for layer in zip(*sizes, strict=True)],
        "low_biases": [w.numel() for name, w in model.named_parameters() if name.endswith("bias")],
        "words": model.get_input_embeddings().weight.numel(),
        "scaled": [(*shape, fed in name) for name, shape in linear.items() if re.search(scaled[kind], name)],
        "keys": [width] * len(stacks[0]),
        "places": [name for name in linear if re.search(behind.get(method, "^$"), name)],
        "everything": sum(w.numel() for w in model.parameters()) + heads[kind],
        "encoder": lambda width, inner: width * inner + inner + inner * inner + inner + inner * width + width,
    }  # fmt: skip


@pytest.mark.parametrize(("method", "model"), MARKED)
def test_the_loss_on_what_is_learnt_falls(method, model, made):
    before, after, _, _ = made(method, model)
    assert loss(after) < loss(before)


def loss(level) -> float:
    from stepladder import training

    objective, model = level.answerer.objective, level.answerer.model.eval()
    rows = objective.encode(sentences(24), train=False)
    with training.torch.no_grad():
        answered = [row for i in range(0, 24, 8) for row in objective.answer(model, objective.collate(rows[i : i + 8]))]
    return sum(row["loss"] for row in answered) / sum(row["tokens"] for row in answered)


AGAIN = """
import json, sys
from pathlib import Path
from stepladder import levels, answering
from tests.conftest import sentences
found = {}
for name, folder in json.loads(sys.argv[1]).items():
    answered = levels.load("finetune").load(Path(folder)).predict(sentences(9, seed=2))
    found[name] = answered["probabilities"].struct.unnest().to_numpy().tolist()
print(json.dumps(found))
"""


def test_saved_and_opened_in_a_fresh_process_each_answers_the_same(made):
    folders = {" ".join(pair): str(made(*pair)[2]) for pair in PAIRS}
    command = [sys.executable, "-W", "ignore", "-c", AGAIN, json.dumps(folders)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout.splitlines()[-1])
    for pair in PAIRS:
        ours = made(*pair)[1].predict(sentences(9, seed=2))["probabilities"].struct.unnest().to_numpy()
        assert ours == pytest.approx(np.array(again[" ".join(pair)]), abs=1e-5), pair


def test_others_libraries_open_what_each_saves_and_answer_the_same(made):
    import torch

    strange = {"houlsby", "pfeiffer"}  # which peft does not have
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        strange.add("qlora")  # whose weights bitsandbytes packs there, in blocks that a tiny model does not fill
    pairs = [pair for pair in PAIRS if pair[0] not in strange]
    records = sentences(4, seed=2)
    answered = elsewhere.ask({" ".join(pair): made(*pair)[2] for pair in pairs}, records["input"].to_list())
    for pair in pairs:
        ours = made(*pair)[1].predict(records)["probabilities"].struct.unnest().to_numpy()
        assert ours == pytest.approx(answered[" ".join(pair)], abs=1e-5), pair


@pytest.mark.parametrize(("method", "model"), MARKED)
def test_the_exported_form_stands_alone_and_answers_the_same(method, model, made, tmp_path):
    from stepladder import answering

    _, level, folder, _ = made(method, model)
    answering.load(folder).export(tmp_path / "whole")
    records = sentences(9, seed=2)
    alone = answering.load(tmp_path / "whole").predict(records)["probabilities"].struct.unnest().to_numpy()
    assert alone == pytest.approx(level.predict(records)["probabilities"].struct.unnest().to_numpy(), abs=1e-5)
    assert answering.read(tmp_path / "whole")["base"] is None


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("full", "frozen", "lora")])
def test_a_fit_by_each_method_goes_on_after_a_stop_with_the_same_bits(method, tiny, tmp_path, monkeypatch):
    form = "llama" if method in ("prompt_tuning", "prompt_tuning_text", "p_tuning") else "bert"
    chosen = {
        "max_epochs": 2, "batch_size": 8, "checkpoint_every_s": 0, "num_threads": 1, "optimizer": optimizer(method),
        "layers_per_epoch": section(method).get("layers_per_epoch"),
    }  # fmt: skip
    runs = [
        Run(tiny, tmp_path / name, form=form, method=section(method), base=tiny / form, settings=chosen)
        for name in ("whole", "broken", "broken")
    ]
    whole, first, second = runs
    facts = whole.fit()
    stopped_after(first, 4, monkeypatch)
    assert second.fit() == facts
    ours, theirs = second.weights(), whole.weights()
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert told_once(first, second) == told_once(whole)


def test_each_row_is_answered_the_same_whatever_it_is_batched_with(made):
    for pair in PAIRS:
        level, records = made(*pair)[1], sentences(9, seed=2)
        batched = level.predict(records)["probabilities"].struct.unnest().to_numpy()
        single = [level.predict(records[i : i + 1])["probabilities"].struct.unnest().row(0) for i in (0, 3, 7)]
        assert batched[[0, 3, 7]] == pytest.approx(np.array(single), abs=1e-5), pair


def test_gradual_unfreezing_lets_one_group_more_learn_with_each_epoch(tiny):
    from stepladder import methods, models

    model = models.classifier(tiny / "bert", LABELS, seed=3)

    def learning() -> set[str]:
        return {name for name, weight in model.named_parameters() if weight.requires_grad}

    methods.thaw(model, layers_per_epoch=1, epoch=0)
    assert learning() == {"classifier.weight", "classifier.bias"}
    methods.thaw(model, layers_per_epoch=1, epoch=1)
    assert {name for name in learning() if "layer" in name} == {
        n for n, _ in model.named_parameters() if "layer.1." in n
    }
    methods.thaw(model, layers_per_epoch=1, epoch=2)
    assert learning() == {name for name, _ in model.named_parameters()}
    decoder = models.causal(tiny / "llama")
    methods.thaw(decoder, layers_per_epoch=1, epoch=0)
    assert {name.split(".")[2] for name, weight in decoder.named_parameters() if weight.requires_grad} == {"1"}


def test_adaloras_penalty_is_what_peft_adds_to_a_loss_and_its_ranks_fall(tiny):
    import torch

    from stepladder import adapters, methods, models

    model = methods.apply(models.classifier(tiny / "bert", LABELS, seed=3), section("adalora"), seed=0)
    adapters.begin(model, 20)
    batch = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([1])}
    whole = model.eval()(**batch)
    plain = torch.nn.functional.cross_entropy(whole.logits, batch["labels"])
    assert adapters.penalty(model).item() == pytest.approx((whole.loss - plain).item(), rel=1e-5)
    assert adapters.penalty(models.causal(tiny / "llama")) is None
    rates = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for step in range(1, 21):
        model(**batch).loss.backward()
        rates.step()
        adapters.stepped(model, step)
        rates.zero_grad()
    kept = sum(sum(ranks) for ranks in model.peft_config["default"].rank_pattern.values())
    assert kept == SMALL["target_r"] * len(model.peft_config["default"].rank_pattern)


def test_lora_plus_gives_b_its_own_rate_and_every_trained_weight_one(tiny):
    from stepladder import learner, methods, models

    model = methods.apply(models.classifier(tiny / "bert", LABELS, seed=3), LORA, seed=0)
    made = learner.build(optimizer("lora_plus"), model)
    names = {id(weight): name for name, weight in model.named_parameters()}
    rates = {names[id(weight)]: group["lr"] for group in made.param_groups for weight in group["params"]}
    assert rates.keys() == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {rate for name, rate in rates.items() if "lora_A" in name} == {1e-2}
    assert {rate for name, rate in rates.items() if "lora_B" in name} == {1e-2 * 16}


@pytest.mark.capability(9)
@pytest.mark.parametrize("model", MODELS)
def test_qlora_keeps_the_base_in_four_bits_and_the_head_whole(model, made, tiny):
    import torch
    from bitsandbytes.nn import Linear4bit

    _, level, folder, facts = made("qlora", model)
    adapted = level.answerer.model
    layers = {name: each for name, each in adapted.named_modules() if isinstance(each, torch.nn.Linear)}
    whole = {name for name, each in layers.items() if not isinstance(each, Linear4bit) and "lora_" not in name}
    assert all(re.search(rf"{HEADS}|lm_head|\.wo\.", name) for name in whole)  # T5's wo does not bear fewer than 32
    rounded = {name: each.weight for name, each in layers.items() if isinstance(each, Linear4bit)}
    assert rounded
    assert all(weight.dtype == torch.uint8 and not weight.requires_grad for weight in rounded.values())
    assert sum(w.numel() for w in rounded.values()) * 2 == sum(w.quant_state.shape.numel() for w in rounded.values())
    lora = made("lora", model)[3]
    assert facts["num_parameters"] == lora["num_parameters"]
    assert json.loads((folder / "stepladder.json").read_text())["quantization"]["bnb_4bit_quant_type"] == "nf4"


def test_without_bitsandbytes_a_base_of_four_bits_is_refused_with_the_cure(tiny, choose, monkeypatch):
    from stepladder import levels, quantization

    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    level = levels.load("finetune")(sections(choose, "qlora", "bert"), base=tiny / "bert")
    with pytest.raises(MachineError, match=r"method.quantization=nf4 needs the package bitsandbytes: pip install"):
        level._open(sentences(8))
