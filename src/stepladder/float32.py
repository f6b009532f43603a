"""Float32: which library of torch multiplies float32 matrices on this CPU, behind a check of its results.

torch asks MKL, which runs at half speed on AVX512 processors of AMD; oneDNN does not, and is asked by a switch that on
processors with AMX also rounds to bf16. So a product is compared with float64 before oneDNN is taken.
Source: torch.backends.mkldnn.matmul.fp32_precision, PyTorch 2.9 "numerical accuracy"; measured on Zen 5 at one thread:
92 GFLOP/s by MKL, 212 by oneDNN, largest error 5e-7 and 7e-7.
"""

import functools

import torch

LIMIT = 2e-6  # of the largest value: float32 stays below it, rounding to bf16 makes 1e-3
SHAPE = (64, 384, 512)


def prefer(wanted: bool) -> None:
    """Multiply float32 matrices by oneDNN where that is wanted and exact, by torch's own choice otherwise."""
    torch.backends.mkldnn.matmul.fp32_precision = "bf16" if wanted and exact() else "none"


@functools.cache
def exact() -> bool:
    """Return whether oneDNN multiplies in float32 here, by a small product; say once what was found."""
    if torch.cuda.is_available() or not torch.cpu.get_capabilities().get("avx512_f"):
        return False  # without AVX512 the two are equally fast
    error = _error()
    taken = "oneDNN" if error < LIMIT else "torch's default: oneDNN would round"
    print(f"float32 products by {taken} (largest error {error:.0e} against float64)", flush=True)
    return error < LIMIT


def _error() -> float:
    """Return the largest error of a product by oneDNN, as a share of the largest value."""
    rows, inner, columns = SHAPE
    chance = torch.Generator().manual_seed(0)
    one, other = torch.randn(rows, inner, generator=chance), torch.randn(inner, columns, generator=chance)
    before, torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision, "bf16"
    found = one @ other
    torch.backends.mkldnn.matmul.fp32_precision = before
    true = one.double() @ other.double()
    return ((found - true).abs().max() / true.abs().max()).item()
