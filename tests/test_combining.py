"""Combining: adapters of several sources become one by peft's rules, which follow their papers' formulas."""

import json

import polars as pl
import pytest

from stepladder import combining, compose, levels
from stepladder.errors import DataError
from tests.conftest import sentences

pytestmark = [pytest.mark.slow, pytest.mark.capability(44)]

KINDS = ("linear", "cat", "svd", "ties", "dare_linear")


def rows(number: int, *, seed: int) -> pl.DataFrame:
    """Return sentences of two sources in turn."""
    names = pl.Series("source", [("film", "book", "book")[i % 3] for i in range(number)])
    return sentences(number, seed=seed).with_columns(names)


def section(kind: str) -> dict:
    return compose.compose(["method=lora_combined"])["method"] | {"r": 4, "combination": kind}


@pytest.fixture(scope="module")
def fitted(tiny, choose, tmp_path_factory):
    """Return a function from a kind to a fitted level, its state and its facts; the adapters are trained once."""
    state = tmp_path_factory.mktemp("combined")

    def made(kind: str):
        sections = choose("finetune", "llama", method=section(kind), trainer={"max_epochs": 2})
        level, told = levels.load("finetune")(sections, base=tiny / "llama"), []
        facts = level.fit(rows(36, seed=0), rows(18, seed=1), state=state, log=lambda *values: told.append(values))
        return level, state, facts, told

    return made


def deltas(model, folder) -> dict:
    """Return what an adapter that was saved adds to each weight."""
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    names = {name.removesuffix(".lora_A.weight") for name in saved if name.endswith(".lora_A.weight")}
    scale = config["lora_alpha"] / config["r"]
    return {name: scale * saved[f"{name}.lora_B.weight"] @ saved[f"{name}.lora_A.weight"] for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_a_combination_is_what_its_formula_says_of_the_adapters(kind, fitted, tmp_path):
    import torch
    from safetensors.torch import load_file

    level, state, facts, _ = fitted(kind)
    level.save(tmp_path / "made")
    ours = deltas(level.answerer.model, tmp_path / "made")
    parts = [deltas(level.answerer.model, state / "adapters" / str(number)) for number in (0, 1)]
    assert set(facts["adapters"]) == {"book", "film"}
    for name, delta in ours.items():
        first, second = (part[name] for part in parts)
        assert not torch.allclose(first, second, atol=1e-6)
        mean = (first + second) / 2
        if kind == "cat":
            assert torch.allclose(delta, mean, atol=1e-6)
        elif kind == "svd":  # the nearest matrix of rank r (Eckart & Young 1936)
            u, s, v = torch.linalg.svd(mean)
            assert torch.allclose(delta, u[:, :4] * s[:4] @ v[:4], atol=1e-5)
    if kind not in ("linear", "ties"):
        return
    thin = [load_file(state / "adapters" / str(number) / "adapter_model.safetensors") for number in (0, 1)]
    got = load_file(tmp_path / "made" / "adapter_model.safetensors")
    for name in got:
        tensors = [(0.5 * 4.0) ** 0.5 * part[name] for part in thin]  # half of each adapter, and its scale 16 / 4
        expected = sum(tensors) if kind == "linear" else ties(torch.stack(tensors))
        assert torch.allclose(got[name], expected, atol=1e-6), name


def ties(tensors):
    """Return the merge of Yadav et al. 2023, 3.2: trim by magnitude, elect a sign, add what agrees over how many do."""
    import torch

    flat = tensors.flatten(1)
    kept = int(0.5 * flat.shape[1])
    trimmed = torch.zeros_like(flat)
    for row, values in zip(trimmed, flat, strict=True):
        top = values.abs().topk(kept).indices
        row[top] = values[top]
    agree = (trimmed.sign() == torch.where(trimmed.sum(0) >= 0, 1.0, -1.0)) & (trimmed != 0)
    summed = torch.where(agree, trimmed, 0.0).sum(0)
    return (summed / agree.sum(0).clamp(min=1)).view_as(tensors[0])


def test_a_combination_is_saved_opened_and_exported_with_the_same_answers(fitted, tmp_path):
    from stepladder import answering

    level, _, facts, _ = fitted("ties")
    level.save(tmp_path / "made")
    expected = level.predict(rows(9, seed=2))["probabilities"].struct.unnest().to_numpy()
    answering.load(tmp_path / "made").export(tmp_path / "whole")
    for got in (levels.load("finetune").load(tmp_path / "made"), answering.load(tmp_path / "whole")):
        assert got.predict(rows(9, seed=2))["probabilities"].struct.unnest().to_numpy() == pytest.approx(
            expected, abs=1e-5
        )
    assert facts["rows_seen"] == 36
    assert facts["num_trained_parameters"] == 2 * facts["adapters"]["film"]["num_trained_parameters"]
    again = fitted("ties")
    assert not again[3]  # nothing was trained again: each adapter was finished
    assert (
        again[0].predict(rows(9, seed=2))["probabilities"].to_list()
        == level.predict(rows(9, seed=2))["probabilities"].to_list()
    )


def test_rows_that_leave_nothing_to_combine_are_refused():
    one, two = sentences(12), rows(12, seed=0)
    with pytest.raises(DataError, match="train: every record is of source 'film'; there is nothing to combine"):
        combining.sources(one, one)
    with pytest.raises(DataError, match="val: no record of source 'book'"):
        combining.sources(two, one)
    bare = one.with_columns(pl.lit(None, pl.String).alias("source"))
    with pytest.raises(DataError, match=r"train: record 'r0_0' has no source; .* data.columns.source"):
        combining.sources(bare, one)
