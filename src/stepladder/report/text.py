"""Numbers as people read them in a report; an en dash stands for what is not known."""

import math

from stepladder.verdict import number

DASH = "\N{EN DASH}"
NAMES = {"macro_f1": "macro F1", "mcc": "MCC", "roc_auc": "ROC-AUC", "log_loss": "log-loss", "chrf": "chrF"}
NAMES |= {"bleu": "BLEU", "rouge_l": "ROUGE-L", "token_f1": "token F1", "r2": "R²", "brier": "Brier score"}


def count(value: float | None) -> str:
    """Return 999, 24.3 k, 134.5 M or 1.2 G; an en dash for None."""
    return _scaled(value, ("", " k", " M", " G", " T"), 1000)


def size(value: float | None) -> str:
    """Return bytes as B, kB, MB or GB."""
    return _scaled(value, (" B", " kB", " MB", " GB", " TB"), 1000)


def seconds(value: float | None) -> str:
    """Return 2.5 ms, 0.4 s, 42 s, 2 min 30 s or 1 h 05 min; an en dash for None."""
    if value is None:
        return DASH
    if 0 < value < 0.095:
        return f"{1000 * value:.2g} ms"
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def energy(value: float | None) -> str:
    """Return kWh as 0.0213 Wh or 1.4 kWh; an en dash for None."""
    if value is None:
        return DASH
    return f"{value:.3g} kWh" if value >= 1 else f"{1000 * value:.3g} Wh"


def amount(value: float | None) -> str:
    """Return money with three digits, 0.00123 or 12.3; an en dash for None."""
    if value is None:
        return DASH
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def words(name: str) -> str:
    """Return a metric's name as people write it."""
    return NAMES.get(name, name.replace("_", " "))


def score(value: float | None) -> str:
    return DASH if value is None else number(value).replace("-", "\N{MINUS SIGN}")


def gain(value: float | None) -> str:
    return DASH if value is None else number(value, signed=True).replace("-", "\N{MINUS SIGN}")


def chance(value: float | None) -> str:
    """Return a p-value as 0.031, or <0.001."""
    return DASH if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _scaled(value: float | None, units: tuple[str, ...], factor: int) -> str:
    if value is None:
        return DASH
    power = min(int(math.log(max(value, 1), factor) + 1e-9), len(units) - 1)
    scaled = value / factor**power
    return f"{scaled:.1f}{units[power]}" if power and scaled < 100 else f"{scaled:,.0f}{units[power]}"
