"""A recording in our terms: their parameters, gradients and intermediates under our names and in our layout."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.compare.foreign.layouts import listed, shape_of, with_tied
from jaxllm.compare.foreign.names import NameMap, Source, names_of, of_layer, take
from jaxllm.compare.foreign.trace import Recording
from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.parameter_map import nested
from jaxllm.utils.errors import InputError, nearest, printable, shown

MOST_NAMED = 6  # parameters in a message
NEUTRAL = {"bias": np.zeros, "scale": np.ones}  # what a parameter that their model lacks is taken for


@dataclass(frozen=True)
class Matched:
    """Their numbers by our names, all in float64."""

    config: GPTConfig
    recording: Recording
    by_path: Mapping[str, np.ndarray]  # their parameters
    gradients: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]  # the parameters after the optimizer's step
    outputs: Mapping[str, Source]  # of our intermediates
    sources: Mapping[str, Source]  # of our parameters
    absent: tuple[str, ...]  # our parameters that theirs lacks
    left_over: tuple[str, ...]  # their parameters that no name of ours holds

    @property
    def params(self) -> dict[str, Any]:
        """Their parameters as the nested dict that our model takes."""
        return nested(self.by_path)

    def output(self, name: str) -> np.ndarray | None:
        """Their intermediate of that name, None where it was not recorded."""
        return self._taken(name, None)

    def input(self, name: str) -> np.ndarray | None:
        """What went into their module of that name."""
        source = self.outputs.get(name)
        if source is None or source.input or "{h}" in source.from_:
            return None
        with self.fitting(name):
            return take(Source(source.from_, axes=source.axes), self.recording.inputs)

    def output_gradient(self, name: str) -> np.ndarray | None:
        """The gradient of their loss at their intermediate."""
        source = self.outputs.get(name)
        return None if source is None or source.input else self._taken(name, self.recording.output_gradients)

    @contextmanager
    def fitting(self, name: str) -> Iterator[None]:
        """Turns an error of NumPy, about shapes that do not fit each other, into an InputError about that name."""
        try:
            yield
        except (ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            theirs = self.outputs[name].from_ if name in self.outputs else name
            raise InputError(
                f"[outputs] {shown(name)}: what goes into and comes out of {shown(theirs)} does not fit: "
                f"{printable(str(error))}; correct that line of the map, or take it out (--names map.toml)."
            ) from None

    def _taken(self, name: str, arrays: Mapping[str, np.ndarray] | None) -> np.ndarray | None:
        source = self.outputs.get(name)
        if source is None:
            return None
        if arrays is None:
            arrays = self.recording.inputs if source.input else self.recording.outputs
        with self.fitting(name):
            return take(source, arrays, add=False)


def match(config: GPTConfig, recording: Recording, names: NameMap) -> Matched:
    """The recording by our names. Raises InputError where the map does not fit the recording, or that the config."""
    found = with_tied(recording)
    sources = of_layer(names.parameters, config.n_layers)
    shapes = parameter_shapes(config)
    for path in [path for path in sources if path not in shapes]:
        raise InputError(f"the map has {shown(path)}, but the config has no such parameter; take the line out.")
    _check_depth(names, config.n_layers, found)
    _check_found(recording, sources, found)
    absent = tuple(path for path in shapes if path not in sources)
    _check_complete(recording, absent)
    _check_shapes(sources, found, shapes)
    by_path = {}
    for path, shape in shapes.items():
        x = take(sources[path], found) if path in sources else None
        by_path[path] = NEUTRAL[path.rpartition("/")[2]](shape) if x is None else x
    gradients, after = (
        {path: y for path, source in sources.items() if (y := take(source, _tied(recording, arrays), add)) is not None}
        for arrays, add in ((recording.gradients, False), (recording.after, True))
    )
    used = {name for source in sources.values() for name in names_of(source, found)}
    used |= {recording.about.tied.get(name, name) for name in used}
    left_over = tuple(name for name in recording.params if name not in used)
    outputs = of_layer(names.outputs, config.n_layers)
    return Matched(config, recording, by_path, gradients, after, outputs, sources, absent, left_over)


def _tied(recording: Recording, arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The arrays with those of tied parameters under both names."""
    return {**arrays, **{name: arrays[of] for name, of in recording.about.tied.items() if of in arrays}}


def _check_depth(names: NameMap, n_layers: int, found: Mapping[str, np.ndarray]) -> None:
    """Raises InputError if theirs has a block more than the config."""
    deeper = of_layer({path: source for path, source in names.parameters.items() if "{i}" in path}, n_layers + 1)
    for path, source in deeper.items():
        if path.startswith(f"block_{n_layers}/") and names_of(source, found):
            raise InputError(
                f"theirs has {shown(source.from_)}, of block {n_layers}, but model.n_layers is {n_layers}: blocks 0 to "
                f"{n_layers - 1}; set it to theirs."
            )


def _check_found(recording: Recording, sources: Mapping[str, Source], found: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for a source that the recording lacks."""
    for path, source in sources.items():
        if not names_of(source, found):
            raise InputError(
                f"the map takes {path} from {shown(source.from_)}, which {recording.path} does not have; "
                f"{_suggestion(source.from_, found)}"
            )


def _suggestion(name: str, found: Iterable[str]) -> str:
    few = nearest(name, found)
    return few if few.startswith("did you") or len(few) < 400 else f"{few[:400]}..."


def _check_complete(recording: Recording, absent: Iterable[str]) -> None:
    """Raises InputError for parameters without a source that cannot be taken for 0 or 1."""
    needed = [path for path in absent if path.rpartition("/")[2] not in NEUTRAL]
    if needed:
        more = f" and {len(needed) - MOST_NAMED} more" if needed[MOST_NAMED:] else ""
        raise InputError(
            f"the map has nothing for {', '.join(needed[:MOST_NAMED])}{more}; add lines to it (--names map.toml): "
            f"{recording.path} has {listed(recording.params)}."
        )


def _check_shapes(
    sources: Mapping[str, Source], found: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises InputError for arrays of another shape than the config's."""
    wrong = [(path, shape_of(source, found)) for path, source in sources.items()]
    wrong = [(path, shape) for path, shape in wrong if shape != shapes[path]]
    if wrong:
        parts = [
            f"{path} is {list(shapes[path])}, but {shown(sources[path].from_)} "
            + ("cannot be laid out so" if shape is None else f"gives {list(shape)}")
            for path, shape in wrong[:3]
        ]
        more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
        raise InputError(
            f"their model does not fit the config: {'; '.join(parts)}{more}; correct the config or the map."
        )
