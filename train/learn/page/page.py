"""The page of `jaxllm learn show`: one HTML file that loads nothing, with all numbers that a GPT makes of a text.

The page is a template with a block of JSON, which browsers do not run; the script shows its strings as text. Its
content security policy allows one script, by its hash, and no requests.
"""

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jaxllm import GPT
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import visible

from ..folder import LearnFolder
from .axes import Axes, Limits
from .calls import calls
from .grids import page_data
from .model import MOST_TOKENS, Shown
from .theirs import call_theirs, run_theirs
from .values import check_shown, completed, model_trace, plain_config, twin_trace

MOST_BYTES = 2_900_000  # of a page
LIMITS = (Limits(48, 64, 8, 4), Limits(32, 48, 4, 4), Limits(16, 32, 4, 2), Limits(8, 24, 2, 2), Limits(8, 24, 1, 1))


def show_page(
    shown: Shown, text: str, about: str, piece: str | None = None, folder: LearnFolder | None = None
) -> str:  # fmt: skip
    """The HTML for a model and a text, which opens at a piece of the course.

    Where the functions of a learner's folder compute something, it is theirs.

    All of a small model is shown, and of a large one the first features, tokens, heads and blocks. Raises InputError
    for a text that is too short or too long, and for a model that `check_shown` refuses.
    """
    config = plain_config(shown.model.config)
    check_shown(config)
    inputs, targets = text_pairs(shown.tokenizer, text, min(MOST_TOKENS, config.context_length))
    rule, ids = shown.rule, (inputs, targets)
    ours = completed(model_trace(GPT(config), shown.params, *ids, rule), rule, *ids)
    twin = completed(twin_trace(config, shown.params, *ids, rule), rule, *ids)
    theirs = run_theirs(shown.model, shown.params, inputs, twin)
    if folder:
        theirs = call_theirs(folder, [*calls(config, twin, *ids, rule)], twin, theirs)
    labels = [token_label(shown.tokenizer, i) for i in range(config.vocab_size)]
    for limits in LIMITS:
        axes = Axes(config, inputs, targets, labels, limits)
        data = page_data(config, axes, rule, ours, twin, theirs)
        data |= {"text": text, "about": about, "open": _station_of(data, piece)}
        if len(page := html(data).encode()) <= MOST_BYTES:
            break
    return page.decode()


def text_pairs(tokenizer: Tokenizer, text: str, most: int) -> tuple[list[int], list[int]]:
    """The ids of a text and their targets: the next ones, and at the end that of the end of a text where there is one.

    Raises InputError where there are none, or more than `most`.
    """
    ids = tokenizer.encode(text)
    n = len(ids)
    if tokenizer.end_of_text is not None:
        ids = [*ids, tokenizer.end_of_text]
    if len(ids) < 2:
        raise InputError(f"--text has {n} tokens, but an input and a target need two; give a sentence.")
    if len(ids) - 1 > most:
        raise InputError(f"--text has {n:,} tokens, but a page shows at most {most} of this model; shorten it.")
    return ids[:-1], ids[1:]


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """A token as one line: spaces as ␣; control characters and bytes of partial characters are escaped."""
    if token >= tokenizer.vocab_size:
        return "unused"
    return visible(tokenizer.decode_bytes([token])).replace(" ", "␣") or f"id {token}"


def _station_of(data: dict[str, Any], piece: str | None) -> str:
    """The key of the first station of a piece, or of the first of all."""
    tokenizers = ("char_tokenizer", "byte_pair_tokenizer", "input_target_pairs")
    piece = "word_tokenizer" if piece in tokenizers else piece
    keys = [station["key"] for station in data["stations"] if piece in (station["piece"], None)]
    return str(keys[0])


def html(data: dict[str, Any]) -> str:
    """The page with this data."""
    template, style, formulas, script = (_file(name) for name in ("page.html", "page.css", "formulas.js", "page.js"))
    script = f"\n{formulas}\n{script}"
    digest = b64encode(sha256(script.encode()).digest()).decode()
    written = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # so that no text ends the block
    page = template.replace("STYLE", style, 1).replace("SCRIPT_HASH", digest, 1)
    before, after = page.split("DATA_AS_JSON")
    return before + written + after.replace("SCRIPT", script, 1)


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
