"""Adapters: what the peft library adds to a frozen model: thin matrices, scales, rotations, virtual tokens.

Source: https://huggingface.co/docs/peft; each file of conf/method/ names the paper of its method.
"""

import inspect
import warnings
from pathlib import Path

import peft
import torch
from peft.optimizers import create_loraplus_optimizer
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS_NAME
from safetensors.torch import load_file

from stepladder import models, virtual
from stepladder.errors import ConfigError, IntegrityError

OURS = ("_target_", "name", "quantization", "combination", "density", "weight")  # keys that peft's classes do not take
SHARES = ("initial_share", "final_share", "interval_share")  # of all steps: AdaLoRA's schedule; peft counts steps
IA3_TARGETS = {"distilbert": {"target_modules": ["k_lin", "v_lin", "lin2"], "feedforward_modules": ["lin2"]}}


def add(model: torch.nn.Module, method: dict, *, outside: list[str], base: Path | None) -> peft.PeftModel:
    """Return the model with the adapter of a section; `outside` are the linear layers of its head.

    Raises ConfigError where the model cannot have it.
    """
    shares = {key: value for key, value in method.items() if key in SHARES}
    config = _configuration({key: value for key, value in method.items() if key not in shares}, model, outside, base)
    _require(model, config)
    try:
        with models.quiet():
            adapted = peft.get_peft_model(model, config)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"method: not with {model.config.model_type}: {reason}") from error
    adapted.schedule = shares
    return adapted


def is_one(model: torch.nn.Module) -> bool:
    """Say whether peft added something to the model."""
    return isinstance(model, peft.PeftModel)


def save(model: peft.PeftModel, folder: Path, *, base: str | None) -> None:
    """Write adapter_config.json and adapter_model.safetensors, the same bytes in every process."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = base
    if isinstance(config, peft.PromptTuningConfig):  # how it began needs no tokenizer once it is learnt
        config.prompt_tuning_init, config.prompt_tuning_init_text, config.tokenizer_name_or_path = "RANDOM", None, None
    if isinstance(config, peft.AdaLoraConfig):  # pruned ranks are zeros; cut off, peft 0.21 does not take them back
        config.rank_pattern = None
    for name, value in vars(config).items():
        setattr(config, name, sorted(value) if isinstance(value, set) else value)  # sets have no order to save
    with models.quiet():
        model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form, whose tags come in any order


def attach(model: torch.nn.Module, folder: Path) -> peft.PeftModel:
    """Return `model` with the adapter that was saved in `folder`.

    Raises IntegrityError with the keys where its settings are of a later peft, or its weights are missing, left over,
    of another shape or not finite: peft itself goes on with what fits, and says so in a warning at most.
    """
    file = folder / WEIGHTS_NAME
    with models.opening(folder), warnings.catch_warnings():
        warnings.filterwarnings("error", "Unexpected keyword arguments")
        adapted = peft.PeftModel.from_pretrained(model, folder).eval()
        saved, wanted = load_file(file), peft.get_peft_model_state_dict(adapted)
    infinite = sorted(key for key, weight in saved.items() if not weight.isfinite().all())
    refuse(file, sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys()), infinite)
    return adapted


def refuse(file: Path, missing: list[str], surplus: list[str], infinite: list[str]) -> None:
    """Raise IntegrityError that names the weights which a saved adapter lacks, has too many, or holds not finite."""
    wrong = {"missing": missing, "left over": surplus, "not finite": infinite}
    if any(wrong.values()):
        told = "; ".join(f"{len(keys)} weights {how}: {', '.join(keys[:3])}" for how, keys in wrong.items() if keys)
        raise IntegrityError(f"{file}: {told}")


def merged(model: peft.PeftModel) -> torch.nn.Module:
    """Return the base with the adapter multiplied into its weights; virtual tokens stay where they are."""
    if virtual.count(model):
        return model.eval()
    with models.quiet():
        return model.merge_and_unload().eval()


def base_weights(model: peft.PeftModel) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return the base of a model with virtual tokens, and its weights with the trained head in the place of its own."""
    base = model.get_base_model()
    kept = {name: weight for name, weight in base.state_dict().items() if ".original_module." not in name}
    return base, {name.replace(".modules_to_save.default", ""): weight for name, weight in kept.items()}


def combine(model: peft.PeftModel, folders: list[Path], method: dict, *, seed: int) -> None:
    """Put the combination of saved LoRA adapters in the place of the model's own; their deltas have one weight.

    The kinds are peft's: linear (of A and of B), cat and svd (of their products), ties (Yadav et al. 2023,
    arXiv:2306.01708), dare (Yu et al. 2024, arXiv:2311.03099), of which `density` is the share that is kept.
    """
    names = [f"part{number}" for number in range(len(folders))]
    for name, folder in zip(names, folders, strict=True):
        model.load_adapter(folder, adapter_name=name)
    model.set_adapter(names[0])
    model.delete_adapter("default")
    weights = [method["weight"] or 1 / len(names)] * len(names)
    torch.manual_seed(seed)  # dare drops by chance
    model.add_weighted_adapter(
        names, weights, "default", combination_type=method["combination"], density=method["density"]
    )
    model.set_adapter("default")
    for name in names:
        model.delete_adapter(name)
    model.eval()


def two_rates(model: peft.PeftModel, kind: type, options: dict) -> torch.optim.Optimizer:
    """Return LoRA+'s optimizer: B learns `loraplus_lr_ratio` times as fast as A (Hayou et al. 2024)."""
    decay = options.pop("weight_decay", 0.0)
    made = create_loraplus_optimizer(model, kind, loraplus_weight_decay=decay, **options)
    made.param_groups = [group for group in made.param_groups if group["params"]]
    return made


def begin(model: torch.nn.Module, total_steps: int) -> None:
    """Tell AdaLoRA how many steps there will be; the others need not know."""
    config = _adalora(model)
    if config is None:
        return
    shares = model.schedule
    config.total_step = total_steps
    config.tinit, config.tfinal = (round(shares[name] * total_steps) for name in SHARES[:2])
    config.deltaT = max(1, round(shares["interval_share"] * total_steps))
    model.base_model.rankallocator.set_total_step(total_steps)


def penalty(model: torch.nn.Module) -> torch.Tensor | None:
    """Return AdaLoRA's regulariser, the mean distance of P'P and QQ' from identity (Zhang et al. 2023, eq. 4), or None.

    peft adds it to the loss that a model computes itself; an objective computes its own.
    """
    config = _adalora(model)
    if config is None:
        return None
    sides = [weight if "lora_A" in name else weight.T for name, weight in model.named_parameters() if _side(name)]
    with torch.autocast(sides[0].device.type, enabled=False):
        products = [side @ side.T for side in sides]  # (rank, rank)
        away = [torch.linalg.matrix_norm(each - torch.eye(len(each), device=each.device)) for each in products]
        return config.orth_reg_weight * torch.stack(away).mean()


def stepped(model: torch.nn.Module, step: int) -> None:
    """Let AdaLoRA move its ranks after a step, while the gradients are there."""
    if _adalora(model) is not None and all(w.grad is not None for name, w in model.named_parameters() if _side(name)):
        model.base_model.update_and_allocate(step)


def state_dict(model: torch.nn.Module) -> dict | None:
    """Return what AdaLoRA knows beside its weights, for a checkpoint."""
    if _adalora(model) is None:
        return None
    ranks = model.base_model.rankallocator
    pattern = model.peft_config["default"].rank_pattern
    return {"ipt": ranks.ipt, "sensitivity": ranks.exp_avg_ipt, "uncertainty": ranks.exp_avg_unc, "ranks": pattern}


def load_state_dict(model: torch.nn.Module, state: dict | None) -> None:
    """Put back what `state_dict` returned."""
    if state is not None:
        ranks = model.base_model.rankallocator
        ranks.ipt, ranks.exp_avg_ipt, ranks.exp_avg_unc = (state[k] for k in ("ipt", "sensitivity", "uncertainty"))
        model.peft_config["default"].rank_pattern = state["ranks"]


def _adalora(model: torch.nn.Module) -> peft.AdaLoraConfig | None:
    config = getattr(model, "peft_config", {}).get("default")
    return config if isinstance(config, peft.AdaLoraConfig) else None


def _side(name: str) -> bool:
    return "lora_A" in name or "lora_B" in name


def _configuration(method: dict, model: torch.nn.Module, outside: list[str], base: Path | None) -> peft.PeftConfig:
    target = method["_target_"]
    kind = getattr(peft, target.removeprefix("peft."), None)
    if not (isinstance(kind, type) and issubclass(kind, peft.PeftConfig)):
        raise ConfigError(f"method._target_: '{target}' is no configuration class of peft")
    options = {key: value for key, value in method.items() if key not in OURS}
    return kind(**_fitted(options, kind, model, outside, base))


def _fitted(options: dict, kind: type, model: torch.nn.Module, outside: list[str], base: Path | None) -> dict:
    """Return the options with what the model settles: its task, its head, its sizes, its tokenizer."""
    head = type(model).__name__.endswith("ForSequenceClassification")
    if kind is peft.AdaLoraConfig:
        options["total_step"] = 1  # `begin` knows it
    options["task_type"] = "SEQ_CLS" if head else "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if head and options.get("target_modules") == "all-linear":  # the head is trained whole; peft spares its last layer
        if "exclude_modules" in inspect.signature(kind).parameters:
            options.setdefault("exclude_modules", outside)
        else:
            options["target_modules"] = [name for name in _linear(model) if name not in outside]
    if kind is peft.IA3Config and not options.get("target_modules"):
        options |= IA3_TARGETS.get(model.config.model_type, {})
    if issubclass(kind, peft.PromptLearningConfig) and "hidden_size" not in model.config.to_dict():
        names = ("token_dim", "hidden_size"), ("num_layers", "num_hidden_layers"), ("num_attention_heads",) * 2
        options |= {ours: getattr(model.config, theirs) for ours, theirs in names}
    if issubclass(kind, peft.PromptTuningConfig | peft.PromptEncoderConfig):
        options["num_transformer_submodules"] = 1  # peft would make a second prompt for a decoder, and never read it
    if options.get("prompt_tuning_init") == "TEXT":
        options["tokenizer_name_or_path"] = str(base)
    return options


def _linear(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def _require(model: torch.nn.Module, config: peft.PeftConfig) -> None:
    """Raise ConfigError for what peft or the model would pass over: factors, or virtual tokens out of its sight."""
    if getattr(config, "boft_n_butterfly_factor", 1) > 1 and not torch.cuda.is_available():
        raise ConfigError("method.boft_n_butterfly_factor: above 1 peft wants a CUDA device, and takes 1 elsewhere")
    if not getattr(config, "is_prompt_learning", False):
        return
    kind, backbone = model.config.model_type, inspect.signature(model.base_model.forward).parameters
    if isinstance(config, peft.PrefixTuningConfig):
        if "past_key_values" not in backbone:
            raise ConfigError(f"method: {kind} takes no keys and values from outside; a prefix has no place there")
    elif config.task_type == "SEQ_CLS" and model.base_model_prefix == "model":
        raise ConfigError(f"method: the head of {kind} finds its token by the text's ids, which a prompt has none of")
