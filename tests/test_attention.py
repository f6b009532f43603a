"""Attention: our short rows give what transformers' own gives, gradients included; long ones are left to it."""

import itertools

import pytest

pytestmark = pytest.mark.slow

SHAPES = {  # rows, heads, key heads, queries, keys
    "own keys for each head": (3, 4, 4, 9, 9),
    "heads that share keys": (3, 6, 2, 9, 9),
    "queries after a cached prefix": (3, 6, 2, 5, 21),
    "one query": (2, 4, 2, 1, 13),
}


def drawn(shape):
    import torch

    rows, heads, key_heads, queries, keys = shape
    random = torch.Generator().manual_seed(1)
    sizes = ((heads, queries), (key_heads, keys), (key_heads, keys))
    return [torch.randn(rows, number, length, 8, generator=random).requires_grad_() for number, length in sizes]


def lower(shape, *, padded: bool):
    """Return the causal mask (rows, 1, queries, keys) of rows that are padded on the left, or not."""
    import torch

    rows, _, _, queries, keys = shape
    mask = torch.ones(rows, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    if padded:
        mask[0, :, :, : min(3, keys - 1)] = False
    return mask


class Module:
    """What attention asks of a layer."""

    def __init__(self, heads: int, key_heads: int, *, is_causal: bool):
        self.num_key_value_groups, self.is_causal, self.training = heads // key_heads, is_causal, True


MASKS = ["causal", "padded", "no mask, causal", "no mask, both ways"]
ALWAYS_MASKED = ("queries after a cached prefix", "no mask, causal")  # by transformers


@pytest.mark.parametrize(("name", "masked"), sorted({*itertools.product(SHAPES, MASKS)} - {ALWAYS_MASKED}))
def test_short_rows_attend_as_the_fused_kernel_does(name, masked):
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from stepladder import attention

    shape = SHAPES[name]
    module = Module(shape[1], shape[2], is_causal="causal" in masked)
    mask = None if "no mask" in masked else lower(shape, padded=masked == "padded")
    results = []
    for function in (attention.attend, sdpa_attention_forward):
        inputs = drawn(shape)
        found, weights = function(module, *inputs, mask, scaling=0.3)
        assert weights is None
        seen = found if mask is None else found * mask.any(-1).transpose(1, 2)[..., None]  # padding may answer anything
        seen.pow(2).sum().backward()
        results.append((seen.detach(), *(tensor.grad for tensor in inputs)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert results[0][0].std() > 0.1


@pytest.mark.parametrize("form", ["bert", "distilbert", "llama"])
def test_a_model_gives_the_same_logits_and_gradients(form, tiny):
    import torch

    from stepladder import attention
    from tests.conftest import sentences
    from tests.test_training import opened

    model, objective = opened(tiny, form)
    batch = objective.collate(objective.encode(sentences(7), train=True))
    results = []
    for name in ("sdpa", attention.NAME):
        if name == attention.NAME:
            attention.prefer(model)
        assert model.config._attn_implementation == name
        model.zero_grad()
        loss = objective.loss(model, batch)
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    assert len(results[0]) > 10
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5 * max(1, float(theirs.abs().max())))


def test_long_rows_and_models_that_chose_otherwise_are_left_alone(tiny, monkeypatch):
    from stepladder import attention, models

    asked = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *words, **options: asked.append(words) or "fused")
    monkeypatch.setattr(attention, "LIMIT", 9 * 9)
    module = Module(4, 4, is_causal=True)
    assert attention.attend(module, *drawn((1, 4, 4, 9, 9)), None) != "fused"
    assert attention.attend(module, *drawn((1, 4, 4, 9, 10)), None) == "fused"
    assert attention.attend(module, *drawn((1, 4, 4, 2, 2)), None, softcap=3.0) == "fused"
    assert len(asked) == 2
    model = models.causal(tiny / "llama")
    model.set_attn_implementation("eager")
    attention.prefer(model)
    assert model.config._attn_implementation == "eager"


def test_a_saved_model_does_not_name_our_attention(tiny, tmp_path):
    from stepladder import attention, models

    model = models.causal(tiny / "llama")
    attention.prefer(model)
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
