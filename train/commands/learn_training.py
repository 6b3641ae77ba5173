"""What `jaxllm learn train` does: a run with the learner's functions, and ours for what they have not written yet."""

from flax import linen as nn

from ..ideas import Code, load_code, resolve
from ..ideas_check import check_ideas
from ..learn.folder import LearnFolder
from ..learn.training.bridge import Bridge
from ..learn.training.chosen import Chosen, choose, verdicts_of
from ..learn.training.loading import check_unchanged, errors_of
from ..learn.training.tie import write
from ..learn.training.training import check_tree, config_of, whose, with_theirs
from ..products import check_products
from ..products import choose as choose_products
from ..runs.folder import RunFolder
from ..runs.sinks import check_sink
from .train import prepare_backend, train_and_report


def train_pieces(directory: str, run: str, overrides: list[str]) -> None:
    """Choose the pieces that are right, say which they are, and train a run with them.

    Raises InputError for a folder that is no course, and for a piece that has changed since; UserCodeError for an
    exception of a piece.
    """
    folder, out = LearnFolder.open(directory), RunFolder(run)
    out.check_new()
    chosen = choose(folder, verdicts_of(folder))
    code = load_code(str(write(folder.path, chosen.used)))
    assert code is not None
    bridge: Bridge = code.names["bridge"]
    with errors_of(folder.path), nn.intercept_methods(bridge.intercept):
        try:
            train(bridge, chosen, code, out, overrides)
        except Exception:
            bridge.watch.check()  # what ended the run, if an error of theirs did
            raise
    check_unchanged(folder, chosen.used, "this training began, which did not see the change")


def train(bridge: Bridge, chosen: Chosen, code: Code, out: RunFolder, overrides: list[str]) -> None:
    """Train a new run, as `jaxllm train` does, and say before whose the pieces are."""
    named = code if bridge.fields else None  # a config that names nothing of it takes no code
    config = resolve(config_of(bridge, overrides), named)
    prepare_backend(config)
    check_products(config.train)
    check_sink(config.train.sink)
    inputs = with_theirs(bridge, config)
    check_tree(inputs.model)
    check_ideas(inputs.config, inputs.model)
    print("\n".join(whose(chosen, bridge.language, str(inputs.config.tokenizer.kind))))
    with out.locked():
        out.check_new()  # again, because preparing may have taken long
        choice = choose_products(inputs.model, config.train)
        inputs = inputs.computing_with(choice.name)
        out.create(inputs.config, inputs.tokenizer, named)
        train_and_report(inputs, out, 0, None, choice)
