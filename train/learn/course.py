"""The pieces in the order of the course."""

import importlib
from functools import cache

from .piece import Piece

ORDER = (
    "word_tokenizer",
    "char_tokenizer",
    "byte_pair_tokenizer",
    "input_target_pairs",
    "token_embedding",
    "position_embedding",
    "linear_map",
    "simple_attention",
    "self_attention",
    "scaled_dot_product",
    "causal_attention",
    "multi_head_attention",
    "layer_norm",
    "mlp",
    "block",
    "gpt",
    "cross_entropy",
    "training_step",
    "sampling",
)


def file_name(name: str) -> str:
    """The file of a piece in a learner's folder.

    >>> file_name("scaled_dot_product")
    'p10_scaled_dot_product.py'
    """
    return f"p{ORDER.index(name) + 1:02}_{name}.py"


@cache
def piece(name: str) -> Piece:
    """The piece of that name; its module, `train/learn/pieces/NAME.py`, has it as `PIECE`."""
    found: Piece = importlib.import_module(f".pieces.{name}", __package__).PIECE
    return found
