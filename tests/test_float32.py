"""Float32: oneDNN multiplies only where its products are float32, and what was chosen is said once."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def machine(monkeypatch):
    """Return a function that gives this process a CPU with or without AVX512, and products of some error."""
    import torch

    from stepladder import float32

    def of(*, wide: bool, error: float):
        float32.exact.cache_clear()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": wide})
        monkeypatch.setattr(float32, "_error", lambda: error)

    yield of
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    float32.exact.cache_clear()


@pytest.mark.parametrize(
    ("wide", "error", "taken", "said"),
    [(True, 7e-7, "bf16", "by oneDNN (largest error 7e-07"), (True, 2e-3, "none", "oneDNN would round"),
     (False, 7e-7, "none", "")],
)  # fmt: skip
def test_onednn_is_taken_where_it_is_wide_and_exact(wide, error, taken, said, machine, capsys):
    import torch

    from stepladder import float32

    machine(wide=wide, error=error)
    for _ in range(2):
        float32.prefer(True)
        assert torch.backends.mkldnn.matmul.fp32_precision == taken
    told = capsys.readouterr().out
    assert told.count(said) == (1 if said else told.count("")) and len(told.splitlines()) == bool(said)
    float32.prefer(False)
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_the_error_is_that_of_products_as_this_machine_makes_them():
    import torch

    from stepladder import float32

    before = torch.backends.mkldnn.matmul.fp32_precision
    units = torch.cpu.get_capabilities()
    assert (float32._error() < float32.LIMIT) or units.get("amx_bf16") or units.get("avx512_bf16")
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_rounding_to_bf16_is_far_above_the_limit():
    import torch

    from stepladder import float32

    one, other = torch.randn(64, 384), torch.randn(384, 512)
    true = one.double() @ other.double()
    rounded = (one.bfloat16().float() @ other.bfloat16().float()).double()
    assert ((rounded - true).abs().max() / true.abs().max()).item() > 100 * float32.LIMIT
