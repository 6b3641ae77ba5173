"""Attention weights as a page to explore: one HTML file that loads nothing and works from a folder.

The page is a template whose only varying part is a JSON block, which no browser runs; all of it reaches the page as
text. A policy within the page allows one script, known by its hash, and no request at all.
"""

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

import numpy as np

STEPS = 65535  # a weight is kept to so many parts of 1


def attention_page(name: str, weights: np.ndarray, labels: list[str], layer: int = 0) -> str:
    """The page for weights [L, H, T, T] between tokens with these labels; it opens with that layer."""
    template = files(__package__).joinpath("attention.html").read_text(encoding="utf-8")
    layers, heads, length, _ = weights.shape
    data = {
        "name": name, "layers": layers, "heads": heads, "tokens": labels, "layer": layer, "steps": STEPS,
        "weights": pack_weights(weights),
    }  # fmt: skip
    script = template.split("<script>")[1].split("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    written = json.dumps(data).replace("<", "\\u003c")  # so that no token ends the block
    return template.replace("SCRIPT_HASH", digest).replace("DATA_AS_JSON", written)


def pack_weights(weights: np.ndarray) -> str:
    """Of each map [T, T] the rows up to the diagonal, one after the other, as little-endian uint16 in base64."""
    visible = weights[..., *np.tril_indices(weights.shape[-1])]
    return b64encode(np.rint(visible * STEPS).astype("<u2").tobytes()).decode()
