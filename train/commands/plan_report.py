"""The lines of `jaxllm plan`."""

import math
from typing import Any

from ..parallel.layout import sizes_in_words
from .runs_report import aligned

GIB = 2**30
NO_TPU = "libtpu is not installed (jaxllm[tpu]), so "
OTHER_MEMORY = (
    "XLA for CPUs computes bfloat16 in float32, sums whole gradients where other compilers scatter the sum, and fuses "
    "otherwise: on {kind} memory, traffic and bytes over the links may be more or less than these"
)


def report(content: dict[str, Any]) -> list[str]:
    """The plan for a reader: what is compiled, memory, operations, links, time."""
    return [
        *compiled_lines(content),
        *content["idle"],
        "",
        *aligned([["memory of a device", ""], *memory_rows(content)]),
        fit_line(content),
        "",
        *work_lines(content),
        "",
        *link_lines(content),
        "",
        *time_lines(content),
    ]


def compiled_lines(content: dict[str, Any]) -> list[str]:
    """Lines on the layout, and on what was compiled."""
    kind, layout = content["kind"], content["layout"]
    shape = f" of a slice {content['topology']}" if content["topology"] else ""
    vocabulary = "" if content["vocabulary_known"] else "; the vocabulary is a stand-in, because it depends on the text"
    few, n = content["compiled_blocks"], content["n_blocks"]
    all_blocks = f"{n} block{'s' if n > 1 else ''}"
    blocks = all_blocks if few[-1] == n else f"{' and '.join(map(str, few))} of {all_blocks}, which are alike, extended"
    return [
        f"{content['subject']}: {content['n_devices']:,} x {kind}{shape}, {sizes_in_words(layout)}{vocabulary}",
        f"compiled: {_compiler(content)}; the step with {blocks}, {content['dtype']}"
        f"{', each block computed again in the backward' if content['remat'] else ''}",
    ]


def _compiler(content: dict[str, Any]) -> str:
    if content["compiler"] == "libtpu":
        return "by libtpu for that slice, optimised little"
    missing = NO_TPU if content["topology"] else ""
    return f"{missing}by XLA for {content['n_devices']:,} virtual CPU devices"


def memory_rows(content: dict[str, Any]) -> list[list[str]]:
    """Rows of a device's memory by use."""
    state = {name: content[name] for name in ("parameters", "optimizer", "gradients")}
    if content["frozen"]:
        state = {"parameters that change": state.pop("parameters"), "frozen parameters": content["frozen"]} | state
    rest = max(content["memory"] - sum(state.values()), 0)
    uses = state | {"activations and the compiler's buffers": rest, "all, by the compiler's plan": content["memory"]}
    if "memory_least" in content:
        uses["least, if blocks keep no more than they must"] = content["memory_least"]
    return [[name, _bytes(size)] for name, size in uses.items()]


def fit_line(content: dict[str, Any]) -> str:
    """Whether the step fits into the device."""
    has = content["memory_of_device"]
    if math.isinf(has):
        return "how much memory a device has is not known"
    said = "fits into" if content["fits"] else "DOES NOT FIT into"
    return f"{said} the {_bytes(has)} of a device, {content['memory'] / has:.0%}"


def work_lines(content: dict[str, Any]) -> list[str]:
    """Lines on operations and traffic."""
    needed, n = content["flops_needed"], content["n_used"]
    compared = "" if needed is None else f"; the model needs {needed / n:.3g} (`jaxllm describe`)"
    return [
        f"FLOPs of a step: {content['flops'] * n:.3g}, {content['flops']:.3g} on each device{compared}",
        f"traffic of a device's memory: {_bytes(content['memory_bytes'])} a step",
    ]


def link_lines(content: dict[str, Any]) -> list[str]:
    """A table of what each device sends in a step."""
    sent = {name: size for name, size in content["sent_bytes"].items() if size >= 2**20}
    rows = [[name, _bytes(size)] for name, size in sorted(sent.items(), key=lambda item: -item[1])]
    if not rows:
        return ["over the links: less than a MiB a step"]
    total = ["all", _bytes(sum(content["sent_bytes"].values()))]
    return aligned([["each device sends in a step", ""], *rows, total])


def time_lines(content: dict[str, Any]) -> list[str]:
    """Lines on the predicted time, and on what the prediction leaves out."""
    mfu = "" if content["mfu"] is None else f", MFU {content['mfu']:.1%}"
    below, products = ("", "products") if content["kind"] == "cpu" else ("products below peak, ", "products at peak")
    lines = [
        f"modelled: {content['peak_flops_per_s'] / 1e12:.3g} TFLOP/s, memory {content['memory_per_s'] / 1e9:.3g} GB/s, "
        f"links {content['links_per_s'] / 1e9:.3g} GB/s ({content['source']})",
        f"{products} {_seconds(content['products_s'])}, with memory {_seconds(content['local_s'])}, "
        f"links {_seconds(content['links_s'])}",
        f"a step: {_seconds(content['step_s'])} with no transfer hidden behind computation, "
        f"{_seconds(content['step_s_hidden'])} with all; {content['tokens_per_s']:,.0f} tokens/s{mfu}",
        f"left out: {below}other arithmetic, latencies, congestion, data, evaluation, checkpoints",
    ]
    if content["compiler"] != "libtpu" and content["kind"] != "cpu":
        lines.append(OTHER_MEMORY.format(kind=content["kind"]))
    return lines


def _bytes(size: float) -> str:
    unit, name = (GIB, "GiB") if size >= GIB / 10 else (2**20, "MiB")
    return f"{size / unit:,.0f} {name}" if size >= 100 * unit else f"{size / unit:.3g} {name}"


def _seconds(time: float) -> str:
    return f"{time:.3g} s" if time >= 1 else f"{time * 1000:.3g} ms"
