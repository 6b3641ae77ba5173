"""`jaxllm export --adapter`: the adapters of a run as a folder that PEFT opens, for the base that they belong to."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.config import GPTConfig
from jaxllm.lora import Int8Kernel, LoraKernel, attach
from jaxllm.pretrained.fetch import PACKAGE
from jaxllm.pretrained.hf_folder import CONFIG
from jaxllm.pretrained.peft import family_of_adapter, read_adapter, write_adapter
from jaxllm.pretrained.safetensors import read_header
from jaxllm.pretrained.save import save_as
from jaxllm.utils.errors import InputError

from ..runs.folder import RunFolder
from ..runs.imported_weights import MERGED
from ..runs.load import TrainedRun
from ..state import abstract_state
from ..tune.merge import MOST_LOST
from .export_verify import (
    BOUND,
    Verified,
    compared,
    installed,
    our_logits,
    random_tokens,
    relative_difference,
    their_logits,
)


def write_adapter_of(folder: Path, run: TrainedRun) -> str:
    """Write the adapters of a run, which was loaded with them; returns what they are.

    Raises InputError for a run without adapters or with tokens that its base lacks, and as `write_adapter`.
    """
    config, lora = run.config, run.config.lora
    adapter = adapter_of(run.params)
    if not adapter:
        raise InputError("this run has no adapters; leave --adapter out, which exports its whole model.")
    if config.init.add_tokens:
        raise InputError(
            f"init.add_tokens added {len(config.init.add_tokens)} tokens, which the base model of PEFT would lack; "
            "merge the run with `jaxllm merge`, and export that."
        )
    base = source_of(str(config.init.from_))
    arguments = lora.rank, lora.alpha, lora.dropout, for_peft(base), str(config.init.sha256)
    full = full_of(run)
    write_adapter(folder, run.model.config, adapter, *arguments, full)
    rounded = ", trained beside a base in int8" if lora.base == "int8" else ""
    n, n_full = (sum(leaf.size for leaf in flatten_dict(tree).values()) for tree in (adapter, full))
    whole = f" and {n_full:,} in full" if n_full else ""
    return f"{n:,} parameters as adapters of rank {lora.rank}{whole} for {base}{rounded}"


def how_to_open(run: TrainedRun) -> str | None:
    """How PEFT opens the adapter of a run whose base transformers cannot open by its name; else None."""
    base = source_of(str(run.config.init.from_))
    if for_peft(base) is not None:
        return None
    return (
        f"transformers cannot open {base}: write it by `jaxllm export {run.config.init.from_} --out BASE`, and give "
        "both folders to PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER)"
    )


def adapter_of(params: Any) -> dict[str, Any]:
    """A and B at the path of each `LoraKernel`, as NumPy arrays."""
    flat = flatten_dict(params)
    kernels = {path: leaf for path, leaf in flat.items() if isinstance(leaf, LoraKernel)}
    parts = {(*path, name): np.asarray(x) for path, k in kernels.items() for name, x in (("a", k.a), ("b", k.b))}
    return dict(unflatten_dict(parts))


def full_of(run: TrainedRun) -> dict[str, Any]:
    """The parameters that the run trained in full."""
    changing = flatten_dict(abstract_state(run.model, run.config).params)
    return dict(unflatten_dict({p: np.asarray(x) for p, x in flatten_dict(run.params).items() if p in changing}))


def for_peft(source: str) -> str | None:
    """The source where transformers opens it: a folder with a config.json, or a name on Hugging Face; else None."""
    if source.startswith(PACKAGE) or (os.path.exists(source) and not (Path(source) / CONFIG).exists()):
        return None  # a GGUF file, or a run
    return source


def source_of(base: str) -> str:
    """What a base was imported from, or else its own path."""
    weights = RunFolder(base).weights
    source = read_header(weights).metadata.get("source", "") if weights.exists() else ""
    return source if source and not source.startswith(MERGED) else base


def verify_adapter(folder: Path, config: GPTConfig, params: Any) -> Verified:
    """Compare logits as `verify`, of PEFT beside an export of the base, or without it of our own reader.

    The bound is at most MOST_LOST of what the adapters change, so that a reader that leaves them out is noticed.
    """
    base = dense_base(params)
    tokens = random_tokens(config)
    change = relative_difference(our_logits(config, base, tokens), our_logits(config, params, tokens))
    bound = min(BOUND, MOST_LOST * change)
    if (version := installed("peft")) and installed("transformers"):
        with tempfile.TemporaryDirectory(prefix="jaxllm-base-") as exported:
            place = Path(exported)
            save_as(family_of_adapter(folder, config), place, config, base)
            return compared(f"PEFT {version}", lambda x: their_logits(place, x, folder), config, params, bound)
    there = read_adapter(folder, config)
    whole = unflatten_dict(flatten_dict(base) | flatten_dict(there.full))
    read = attach(whole, there.adapter, there.alpha / there.rank)
    reader = "jaxllm's reader of adapters (PEFT is not installed)"
    return compared(reader, lambda x: our_logits(config, read, x), config, params, bound)


def dense_base(params: Any) -> dict[str, Any]:
    """The parameters with an array, in float32, in place of each `LoraKernel`: its base."""

    def dense(leaf: Any) -> np.ndarray:
        base = leaf.base if isinstance(leaf, LoraKernel) else leaf
        if isinstance(base, Int8Kernel):
            return np.asarray(base.weights, np.float32) * np.asarray(base.scale)
        return np.asarray(base)

    return dict(unflatten_dict({path: dense(leaf) for path, leaf in flatten_dict(params).items()}))
