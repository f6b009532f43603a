"""Dropout: the share that is asked for, unbiased, drawn from torch's seed, and torch's own where that is as good."""

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_those_of_the_rule(p, dtype):
    import torch

    from stepladder import dropout

    torch.manual_seed(3)
    values = torch.ones(1000, 1001, dtype=getattr(torch, dtype)).requires_grad_()
    found = dropout.dropout(values, p)
    zero = (found == 0).double().mean().item()
    assert zero == pytest.approx(p, abs=0.002)
    assert found[found > 0].unique().tolist() == [pytest.approx(1 / (1 - p), rel=1e-4 if dtype == "float32" else 4e-3)]
    found.sum().backward()
    assert torch.equal(values.grad == 0, found == 0)
    assert found[:, ::7].eq(0).double().mean().item() == pytest.approx(p, abs=0.005), "no pattern along a row"


def test_neighbours_are_dropped_independently():
    import torch

    from stepladder import dropout

    torch.manual_seed(4)
    gone = (dropout.dropout(torch.ones(1_000_000), 0.3) == 0).double()
    for step in (1, 2, 3, 4, 8):  # four elements share one 64-bit draw
        both = (gone[:-step] * gone[step:]).mean().item()
        assert both == pytest.approx(0.09, abs=0.002)


def test_the_seed_decides_and_nothing_is_dropped_outside_of_training():
    import torch

    from stepladder import dropout

    layer, values = dropout.Dropout(0.4), torch.ones(5, 7)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(layer(values))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(layer.eval()(values), values)
    assert torch.equal(dropout.dropout(values, 0.0), values)
    assert torch.equal(dropout.dropout(values, 1.0), torch.zeros(5, 7))


def test_every_dropout_of_a_model_is_replaced_and_its_state_kept(tiny):
    import torch

    from stepladder import dropout, models

    model = models.classifier(tiny / "bert", ["bad", "good"], seed=1)
    before = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    dropout.prefer(model)
    after = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert {name: module.p for name, module in after.items()} == before
    assert {type(module) for module in after.values()} == {dropout.Dropout}
    assert not any(module.training for module in after.values())
