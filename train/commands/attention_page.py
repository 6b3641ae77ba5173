"""Attention weights as a page to explore: one HTML file that loads nothing, so that it can be opened from a folder.

The page is a template with a block of JSON, which browsers do not run; the script shows its strings as text. The page's
content security policy allows one script, by its hash, and no requests.
"""

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

import numpy as np

STEPS = 65535  # weights are stored as multiples of 1 / STEPS


def attention_page(name: str, weights: np.ndarray, labels: list[str], layer: int = 0) -> str:
    """The HTML of a page for weights [L, H, T, T] between tokens with these labels, which opens with that layer."""
    template = files(__package__).joinpath("attention.html").read_text(encoding="utf-8")
    layers, heads, length, _ = weights.shape
    data = {
        "name": name, "layers": layers, "heads": heads, "tokens": labels, "layer": layer, "steps": STEPS,
        "weights": pack_weights(weights),
    }  # fmt: skip
    script = template.split("<script>")[1].split("</script>")[0]
    digest = b64encode(sha256(script.encode()).digest()).decode()
    written = json.dumps(data).replace("<", "\\u003c")  # so that no label ends the block
    return template.replace("SCRIPT_HASH", digest).replace("DATA_AS_JSON", written)


def pack_weights(weights: np.ndarray) -> str:
    """The rows of each map [T, T] up to the diagonal, one after another, as little-endian uint16 in base64."""
    visible = weights[..., *np.tril_indices(weights.shape[-1])]
    return b64encode(np.rint(visible * STEPS).astype("<u2").tobytes()).decode()
