"""`jaxllm plan`: what a training run would need on devices that one may not have, from the step as XLA compiles it."""

import argparse
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.flops import flops_per_token
from jaxllm.utils.errors import InputError, nearest
from jaxllm.utils.files import replace_file

from ..config import RunConfig, tokens_of_step
from ..config_file import load_config
from ..ideas import load_code, resolve
from ..ideas_check import check_ideas
from ..inputs import known_vocabulary, model_without_text
from ..outputs import check_output
from ..parallel.layout import describe_idle, laid_out_for, layout
from ..plan.chips import CHIPS, KINDS, topology_of
from ..plan.process import planned
from ..plan.roofline import TIME_MODEL, Figures
from ..tune.partition import partition_of
from .options import Parser, add_code, add_overrides
from .plan_report import report

MOST_DEVICES = 4096


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm plan configs/plan-7b.toml --devices 64 --kind v5p")
    parser.description = f"{parser.description}\n\n{TIME_MODEL}"
    parser.add_argument("config", metavar="CONFIG.toml", help="a config file, with its [parallel]; no text is read")
    add_overrides(parser)
    add_code(parser)
    parser.add_argument(
        "--devices", type=int, metavar="N", help="default: the product of the sizes in the config's [parallel]"
    )
    parser.add_argument(
        "--kind", default="cpu", metavar="KIND",
        help=f"{', '.join(KINDS)}; of a TPU also with the shape of a slice, as v5e:4x8; default cpu, this machine's",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE.json", help="write all figures")


def run(arguments: argparse.Namespace) -> None:
    """Print the plan, and write the figures where asked for."""
    a = arguments
    check_output("--json", a.json, (".json",))
    config = resolve(load_config(a.config, a.overrides), load_code(a.code))
    model = model_without_text(config)
    check_ideas(config, model)
    n_devices = a.devices if a.devices is not None else laid_out_for(config.parallel)
    kind, topology = device_kind(a.kind, n_devices)
    chosen = layout(config.parallel, n_devices, model, config.train)
    compiler = compiler_of(kind)
    job = {
        "config": a.config, "overrides": a.overrides, "code": a.code, "kind": kind, "n_devices": n_devices,
        "topology": topology if compiler == "libtpu" else "",
    }  # fmt: skip
    content = {
        "subject": a.config, "kind": kind, "topology": topology, "n_devices": n_devices, "compiler": compiler,
        "idle": describe_idle(chosen, n_devices, config.train), "n_blocks": model.n_layers,
        "vocabulary_known": config.init.from_ is not None or known_vocabulary(config) is not None,
    } | planned(job)  # fmt: skip
    content |= predicted(content, config, model)
    print("\n".join(report(content)))
    if a.json:
        replace_file(Path(a.json), f"{json.dumps(content, indent=1)}\n".encode())


def device_kind(text: str, n_devices: int) -> tuple[str, str]:
    """The kind of device, and the shape of a TPU's slice, "" for others. Raises InputError if there is no such."""
    if not 1 <= n_devices <= MOST_DEVICES:
        raise InputError(f"--devices is {n_devices:,}, but it must be from 1 to {MOST_DEVICES:,}.")
    kind, colon, shape = text.partition(":")
    if kind not in KINDS:
        raise InputError(f"--kind {kind!r} is not known; {nearest(kind, KINDS)}")
    if kind in CHIPS and CHIPS[kind].topologies:
        return kind, topology_of(CHIPS[kind], shape, n_devices)
    if colon:
        raise InputError(f"--kind is {text!r}, but only a TPU's slice has a shape; write --kind {kind}.")
    return kind, ""


def compiler_of(kind: str) -> str:
    """ "libtpu" for a TPU where it is installed, else "virtual CPU devices"."""
    on_tpu = kind in CHIPS and CHIPS[kind].platform == "tpu" and importlib.util.find_spec("libtpu")
    return "libtpu" if on_tpu else "virtual CPU devices"


def predicted(content: Figures, config: RunConfig, model: GPTConfig) -> dict[str, Any]:
    """Figures of the whole step: seconds, tokens, MFU, and whether it fits."""
    n = math.prod(content["layout"].values())
    tokens = tokens_of_step(config, model)
    step_s = content["local_s"] + content["links_s"]
    needed = None if model.block or partition_of(config) else flops_per_token(model) * tokens
    return {
        "n_used": n, "dtype": config.train.dtype, "remat": config.train.remat, "tokens_per_step": tokens,
        "step_s": step_s,
        "step_s_hidden": max(content["local_s"], content["links_s"]), "tokens_per_s": tokens / step_s,
        "flops_needed": needed, "mfu": needed and needed / n / step_s / content["peak_flops_per_s"],
        "fits": content["memory"] <= content["memory_of_device"],
    }  # fmt: skip
