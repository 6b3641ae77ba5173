"""What the fields of a GPTConfig must fulfil together."""

from typing import Any

from jaxllm.utils.errors import InputError, shown


def check_together(config: Any) -> None:
    """Raises InputError for fields of a GPTConfig that are each in range but do not fit together."""
    for check in (_check_sizes, _check_experts, _check_rotary, _check_layers, _check_changes):
        check(config)


def rotated_width(head_dim: int, fraction: float) -> int:
    """How many of a head's features are rotated: a fraction of K, rounded down, as in GPT-NeoX."""
    return int(head_dim * fraction)


def _check_sizes(config: Any) -> None:
    if config.d_head is None and config.d_model % config.n_heads:
        raise InputError(
            f"model.d_model is {config.d_model}, which is not divisible by model.n_heads = {config.n_heads}; "
            f"choose d_model as a multiple of {config.n_heads}, or give model.d_head."
        )
    if config.n_heads % config.kv_heads:
        raise InputError(
            f"model.n_heads is {config.n_heads}, which is not divisible by model.n_kv_heads = "
            f"{config.n_kv_heads}; each key head serves the same number of query heads."
        )
    if config.separator is not None and 0 < config.vocab_size <= config.separator:
        raise InputError(
            f"model.separator is {config.separator}, but the ids are 0 to {config.vocab_size - 1}; choose one of them."
        )
    if config.position == "sinusoidal" and config.d_model % 2:
        raise InputError(
            f"model.d_model is {config.d_model}, but sinusoidal positions come in pairs; make d_model even."
        )
    if config.mup_base_width is not None and config.scale_embeddings:
        raise InputError(
            "model.scale_embeddings makes embeddings grow with the width, but model.mup_base_width = "
            f"{config.mup_base_width} is for those that do not; leave one of them out."
        )


def _check_rotary(config: Any) -> None:
    if config.rotary is None:
        return
    rotated = rotated_width(config.head_dim, config.rotary_fraction)
    if rotated % 2 or not rotated:
        share = "" if config.rotary_fraction == 1 else f", of which {rotated} features are rotated"
        raise InputError(f"a head is {config.head_dim} wide{share}, but rotary positions rotate pairs; make it even.")
    if config.rope_factor != 1 and config.rope_scaling != "linear":
        _check_scaling(config.rotary)


def _check_experts(config: Any) -> None:
    """That a mixture of experts has no options that it does not take."""
    if not config.n_experts:
        return
    if config.n_experts_per_token > config.n_experts:
        raise InputError(
            f"model.n_experts_per_token is {config.n_experts_per_token}, but there are only model.n_experts = "
            f"{config.n_experts}; choose fewer."
        )
    if config.activation not in ("swiglu", "geglu"):
        raise InputError(
            f"model.activation is {shown(config.activation)}, but experts are gated; choose swiglu or geglu, or set "
            "model.n_experts = 0."
        )
    if config.use_bias or config.mup_base_width is not None:
        field = "use_bias = true" if config.use_bias else f"mup_base_width = {config.mup_base_width}"
        raise InputError(f"model.{field} is not for experts; leave it out, or set model.n_experts = 0.")


def _check_scaling(rotary: Any) -> None:
    """Raises InputError for numbers with which Llama 3's scaling or YaRN's has no meaning."""
    if rotary.low_frequency >= rotary.high_frequency:
        raise InputError(
            f"model.rope_low_frequency is {rotary.low_frequency}, but it must be below "
            f"model.rope_high_frequency = {rotary.high_frequency}."
        )
    within = rotary.base > 1 and rotary.low_frequency >= 1e-6 and rotary.high_frequency <= 1e6
    if rotary.scaling == "yarn" and not within:
        raise InputError(
            f"model.rope_base is {rotary.base} and the frequencies are {rotary.low_frequency} and "
            f"{rotary.high_frequency}, but YaRN needs a base above 1 and frequencies from 1e-6 to 1e6; the usual ones "
            "are 10000, 1 and 32."
        )


def _check_layers(config: Any) -> None:
    """That what differs from layer to layer has what it needs."""
    if config.layer_pattern is not None and "L" in config.layer_pattern and config.sliding_window is None:
        raise InputError(
            f"model.layer_pattern is {config.layer_pattern!r}, whose local layers (L) attend within a window; give "
            "model.sliding_window."
        )
    if config.rope_local_base is not None and (config.rotary is None or "L" not in (config.layer_pattern or "")):
        raise InputError(
            f"model.rope_local_base is {config.rope_local_base}, the base of rotary positions in the local layers of "
            "model.layer_pattern, of which there are none; leave it out."
        )
    if config.rotary_pattern is not None and config.rotary is None:
        raise InputError(
            f"model.rotary_pattern is {config.rotary_pattern!r}, but model.position is {config.position}; choose "
            "rotary positions, or leave the pattern out."
        )
    for field in ("layer_pattern", "rotary_pattern"):
        if config.block is not None and getattr(config, field) is not None:
            raise InputError(
                f"model.{field} is {getattr(config, field)!r}, but model.block is {config.block}, which all layers "
                "share; leave one of them out."
            )


def _check_changes(config: Any) -> None:
    """That nothing is decided twice."""
    if config.visible is not None and config.sliding_window is not None:
        raise InputError(
            f"model.sliding_window is {config.sliding_window}, but model.visible decides what is visible; give one."
        )
    for field in ("score", "logits"):
        function, cap = getattr(config, field), getattr(config, f"{field}_softcap")
        if function is not None and cap is not None:
            raise InputError(
                f"model.{field}_softcap is {cap}, but model.{field} = {function} decides how they are changed; put the "
                "cap into that function, or give one of the two."
            )
