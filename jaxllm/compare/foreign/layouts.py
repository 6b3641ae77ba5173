"""The map of names of a recording, guessed: for the families of transformers that `jaxllm import` reads, and nanoGPT.

The names of parameters are those of `jaxllm.pretrained.families`. The names of modules follow from them: a module's
name is that of its parameters without the last word, and an attention is what its queries and its output have in
common.
"""

import os.path
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxllm.compare.foreign.names import NameMap, Source, names_of, of_layer, take
from jaxllm.compare.foreign.piece import SCALED
from jaxllm.compare.foreign.trace import ROOT, Recording
from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.families import EMBEDDING, FAMILIES, HEAD, Layout
from jaxllm.pretrained.gpt_families import GPT2, GPT_NEOX
from jaxllm.pretrained.parameter_map import tensor_name
from jaxllm.utils.errors import InputError, printable

MOST_LISTED = 20  # names of a file, in a message
# Our composite modules, and two of their parts: theirs is what the names of both parts have in common.
COMPOSITES = {
    "block_{i}/attention": ("block_{i}/attention/query", "block_{i}/attention/output"),
    "block_{i}/mlp": ("block_{i}/mlp/up", "block_{i}/mlp/down"),
    "block_{i}": ("block_{i}/attention/query", "block_{i}/mlp/down"),
}


class Guess(NamedTuple):
    """A map of names and what it was made after."""

    title: str
    names: NameMap


def guess_names(config: GPTConfig, recording: Recording) -> Guess:
    """The map of the known layout that fits most of the parameters. Raises InputError where none fits."""
    best: tuple[tuple[int, int, bool, bool], Guess] | None = None
    for title, layout, wrapper in _layouts(recording):
        parameters = _parameters(layout, wrapper, config, with_tied(recording))
        named = title.partition(" ")[0] in recording.about.classes.values()
        fit = (*_fit(parameters, config, recording, layout), named)
        if fit[1] and (best is None or fit > best[0]):
            best = fit, Guess(title, NameMap(dict(parameters), dict(_outputs(parameters, config, recording))))
    if best is None:
        titles = dict.fromkeys(title for title, _ in known_layouts())
        raise InputError(
            f"the names in {recording.path} are those of none of {', '.join(titles)}: it has "
            f"{listed(recording.params)}; name a file for the map, --names map.toml, and fill in what is written there."
        )
    return best[1]


def known_layouts() -> Iterator[tuple[str, Layout]]:
    """The layouts that are guessed, each with a title. nanoGPT has GPT-2's names, but its kernels are [out, in].

    In memory, transformers 5 calls the head of a GPT-NeoX as all others; in a folder it is embed_out.
    """
    for family in FAMILIES:
        yield f"{family.architecture} of transformers", family.folder
    names = {theirs.replace("embed_out", "lm_head"): ours for theirs, ours in GPT_NEOX.folder.names.items()}
    yield f"{GPT_NEOX.architecture} of transformers", GPT_NEOX.folder._replace(names=names)
    yield "nanoGPT", GPT2.folder._replace(out_in=True)


def _layouts(recording: Recording) -> Iterator[tuple[str, Layout, str]]:
    """The layouts whose token table is in the recording; with what is before their names, such as "_orig_mod."."""
    theirs = with_tied(recording)
    for title, layout in known_layouts():
        table = tensor_name(layout, EMBEDDING)
        bare = table.removeprefix(layout.prefix)
        whole = [name for name in theirs if name == table or name.endswith(f".{table}")]
        for name in whole or [name for name in theirs if name == bare or name.endswith(f".{bare}")]:
            names = layout.names
            if not whole:
                names = {theirs.removeprefix(layout.prefix): ours for theirs, ours in names.items()}
            yield title, layout._replace(names=names), name.removesuffix(table if whole else bare)


def _parameters(
    layout: Layout, wrapper: str, config: GPTConfig, found: Mapping[str, np.ndarray]
) -> dict[str, str | Source]:
    """The source of each of the config's parameters that is found, by patterns of our paths."""
    shapes, out = parameter_shapes(config), dict[str, str | Source]()
    for theirs, held in layout.names.items():
        paths = (held,) if isinstance(held, str) else held
        first = [path.replace("{i}", "0") for path in paths]
        if any(path not in shapes for path in first) or (wrapper + theirs).replace("{i}", "0") not in found:
            continue
        widths = [shapes[path][-1] for path in first]
        ends = np.cumsum([0, *widths]).tolist()
        for k, path in enumerate(paths):
            equal = len(set(widths)) == 1
            heads = config.n_heads if layout.by_head and len(paths) > 1 else None
            out[path] = simplest(Source(
                wrapper + theirs, transpose=path == HEAD or (layout.out_in and path.endswith("/kernel")),
                heads=heads, part=(k, len(paths)) if equal and len(paths) > 1 else None,
                columns=None if equal else (ends[k], ends[k + 1]),
                add=float(layout.offset) if path.endswith("/scale") else 0.0,
            ))  # fmt: skip
    return out


def simplest(source: Source) -> str | Source:
    """The name alone where a source says nothing else."""
    return source.from_ if source == Source(source.from_) else source


def _fit(
    parameters: Mapping[str, str | Source], config: GPTConfig, recording: Recording, layout: Layout
) -> tuple[int, int, bool]:
    """How many of our parameters have their shapes, how many are there, and whether scales are stored as Gemma does."""
    shapes, right, there = parameter_shapes(config), 0, 0
    arrays = with_tied(recording)
    for path, source in of_layer(parameters, 1).items():
        if names_of(source, arrays):
            there += 1
            right += shape_of(source, arrays) == shapes[path]
    gemma = any(name.startswith("Gemma") for name in recording.about.classes.values())
    return right, there, bool(layout.offset) == gemma


def with_tied(recording: Recording) -> dict[str, np.ndarray]:
    """Their parameters by name; one that is tied to another has both names."""
    tied = {name: recording.params[of] for name, of in recording.about.tied.items() if of in recording.params}
    return {**recording.params, **tied}


def shape_of(source: Source, arrays: Mapping[str, np.ndarray]) -> tuple[int, ...] | None:
    """The shape of our array from theirs; None where it is not there or its layout does not fit."""
    try:
        shapes = {name: np.broadcast_to(np.zeros(()), np.shape(arrays[name])) for name in names_of(source, arrays)}
        x = take(source, shapes, add=False)
    except (ValueError, IndexError):
        return None
    return None if x is None else x.shape


def _outputs(
    parameters: Mapping[str, str | Source], config: GPTConfig, recording: Recording
) -> Iterator[tuple[str, str | Source]]:
    """The sources of our intermediates, from those of the parameters; of modules that were recorded."""
    modules: dict[str, Source] = {}
    for path, given in parameters.items():
        source = Source(given) if isinstance(given, str) else given
        theirs = source.from_.rpartition(".")[0]
        laid_out = Source(theirs, heads=source.heads, part=source.part, columns=source.columns)
        modules.setdefault(path.rpartition("/")[0], laid_out)
    for ours, parts in COMPOSITES.items():
        if all(part in modules for part in parts):
            modules[ours] = Source(common(*(modules[part].from_ for part in parts)))
    here = {ours: one for ours, one in modules.items() if one.from_.replace("{i}", "0") in recording.outputs}
    yield from _renamed(here, config, recording)
    yield from _between(here, config, recording)
    changed = config.logits is not None or config.logits_softcap is not None  # after the head
    yield "logits", ROOT if changed else _head(modules, recording)


def _renamed(
    here: Mapping[str, Source], config: GPTConfig, recording: Recording
) -> Iterator[tuple[str, str | Source]]:  # fmt: skip
    """The sources under the names of our intermediates."""
    for ours, source in here.items():
        if ours == "position_embedding":
            yield "position_embedding/vectors", simplest(source)
        elif ours == "token_embedding" and config.scale_embeddings and _is_scaled(here, recording):
            yield SCALED, simplest(source)
        elif ours != "head":
            yield ours, simplest(source)
    for ours in ("block_{i}/attention/query_norm", "block_{i}/attention/key_norm"):
        first = recording.outputs.get(here[ours].from_.replace("{i}", "0")) if ours in here else None
        if first is None or first.ndim != 4:
            continue
        if first.shape[1:2] == recording.tokens.shape[1:]:  # [B, T, H, K]; ours is [B, H, T, K]
            yield ours, Source(here[ours].from_, axes=(0, 2, 1, 3))


def _is_scaled(here: Mapping[str, Source], recording: Recording) -> bool:
    """Whether the module of the token table multiplies its rows, as Gemma's in transformers 5 does."""
    table = here.get("token_embedding")
    return table is not None and "Scaled" in recording.about.classes.get(table.from_, "")


def _between(
    here: Mapping[str, Source], config: GPTConfig, recording: Recording
) -> Iterator[tuple[str, str | Source]]:  # fmt: skip
    """What no module makes, but another one reads."""
    if "block_{i}" in here:
        theirs = here["block_{i}"].from_
        first = Source(theirs.replace("{i}", "0"), input=True)
        dropped = theirs.removesuffix("h.{i}") + "drop"
        if config.adds_positions:
            yield "position_embedding", dropped if dropped in recording.outputs else first
        elif config.scale_embeddings and not _is_scaled(here, recording):
            yield SCALED, first
    reader = "block_{i}/mlp" if config.norm_place == "after" else "block_{i}/norm_2"
    if reader in here and not config.parallel_residual:
        yield "block_{i}/residual_1", Source(here[reader].from_, input=True)


def _head(modules: Mapping[str, Source], recording: Recording) -> str:
    """The module of the head, of an untied or a tied one; the whole model where it has none."""
    wrapper = modules["token_embedding"].from_
    names = [modules["head"].from_] if "head" in modules else []
    names += [name for name in recording.outputs if name.rpartition(".")[2] == "lm_head"]
    return next((name for name in names if name in recording.outputs and name != wrapper), ROOT)


def common(one: str, other: str) -> str:
    """The words that two dotted names begin with.

    >>> common("h.{i}.attn.c_attn", "h.{i}.attn.c_proj")
    'h.{i}.attn'
    """
    return ".".join(os.path.commonprefix([one.split("."), other.split(".")]))


def with_shapes(names: Mapping[str, np.ndarray]) -> list[str]:
    """Their names with shapes, as text."""
    return [f"{printable(name, 80)} {list(np.shape(x))}" for name, x in names.items()]


def listed(names: Mapping[str, np.ndarray]) -> str:
    """The first of their names with shapes, for a message."""
    texts = with_shapes(names)
    more = f" and {len(texts) - MOST_LISTED:,} more" if texts[MOST_LISTED:] else ""
    return ", ".join(texts[:MOST_LISTED]) + more
