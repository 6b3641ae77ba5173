"""The page of `jaxllm attention` in a real browser: it shows the model's weights, and labels are only ever text."""

import re
from pathlib import Path

import numpy as np
import pytest
from browser import browse
from models import TINY, random_gpt, random_tokens

from train.commands.attention import attention_weights
from train.commands.attention_page import attention_page

# Runs in the page and records what it shows at first and after each event.
SCRIPT = """
const records = [], broken = [];
addEventListener("securitypolicyviolation", (event) => broken.push(event.violatedDirective));
const all = (selector) => [...document.querySelectorAll(selector)];
const text = (id) => document.getElementById(id).textContent;
const radios = all("[role=radio]");
function record() {
  records.push({
    name: text("name"), title: document.title, which: text("which"), said: text("said"),
    checked: radios.filter((radio) => radio.ariaChecked === "true").map((radio) => radios.indexOf(radio)),
    reached: radios.filter((radio) => radio.tabIndex === 0).map((radio) => radios.indexOf(radio)),
    focus: radios.indexOf(document.activeElement),
    labels: all(".token bdi").map((part) => part.textContent),
    numbers: all(".token span").map((part) => part.textContent),
    opacities: all(".token").map((token) => Number(getComputedStyle(token, "::before").opacity)),
  });
}
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
record();
all(".token bdi")[3].dispatchEvent(new PointerEvent("pointerover", { bubbles: true })); record();
all(".token")[5].focus(); record();
press("ArrowLeft"); record();
press("Home"); record();
press("End"); record();
all(".head canvas")[1].dispatchEvent(new MouseEvent("click", { bubbles: true })); record();
all(".head")[1].focus(); press("ArrowDown"); press("ArrowLeft"); record();
const maps = all(".head canvas").map((map) => [...map.getContext("2d").getImageData(0, 0, map.width, map.height).data]);
const found = { records, broken, maps, hurt: window.hurt ?? null, loaded: performance.getEntriesByType("resource").length };
"""
HOSTILE = [
    "</script><script>hurt = 1</script>", '<img src="x" onerror="hurt = 1">', "<!--<script>", "\"'&lt;\\u003c",
    "DATA_AS_JSON", "SCRIPT_HASH", "${hurt = 1}", "שלום",
]  # fmt: skip


@pytest.mark.newest
def test_pointing_keys_and_clicks_show_the_models_weights(tmp_path: Path) -> None:
    model, params = random_gpt(TINY)
    weights, n = attention_weights(model, params, random_tokens(TINY, 1)[0].tolist())[0], TINY.context_length
    name = "runs/</title><script>hurt = 1</script>"
    found = browse(attention_page(name, weights, HOSTILE, layer=1), SCRIPT, tmp_path)
    assert (found["hurt"], found["broken"], found["loaded"]) == (None, [], 0)
    # layer, head, token, and the element with the focus
    want = [
        (1, 0, 7, -1),
        (1, 0, 3, -1),
        (1, 0, 5, 5),
        (1, 0, 4, 4),
        (1, 0, 0, 0),
        (1, 0, 7, 7),
        (0, 1, 7, 7),
        (1, 0, 7, n + 2),
    ]
    assert len(found["records"]) == len(want)
    for record, (layer, head, token, focus) in zip(found["records"], want, strict=True):
        row = weights[layer, head, token, : token + 1]
        assert record["which"] == f"Layer {layer}, head {head}" and record["focus"] == focus
        assert record["checked"] == record["reached"] == [token, n + 2 * layer + head]
        assert record["name"] == record["title"] == f"Attention in {name}" and record["labels"] == HOSTILE
        assert record["numbers"] == [f"{weight:.2f}" for weight in row] + [""] * (n - token - 1)
        np.testing.assert_allclose(record["opacities"], np.sqrt(np.pad(row, (0, n - token - 1))), atol=4e-3)
        most = np.argsort(-row)[:5]
        said = ", ".join(f"{HOSTILE[i]}{i} {row[i]:.3f}" for i in most)
        assert record["said"] == f"{HOSTILE[token]}{token} attends most to {said}"
    for drawn, weight in zip(found["maps"], weights.reshape(-1, n, n), strict=True):
        pixels, seen = np.reshape(drawn, (n, n, 4)), np.tri(n, dtype=bool)
        np.testing.assert_array_equal(pixels[..., 3], 255 * seen)  # nothing ahead
        darker = pixels[seen][np.argsort(weight[seen])][:, 2]
        assert (np.diff(darker) <= 0).all() and darker[0] > darker[-1]


def test_a_page_is_small_and_loads_nothing() -> None:
    weights = np.full((12, 12, 64, 64), 1 / 64)
    page = attention_page("run", weights, ["token"] * 64)
    assert len(page) < 1_000_000
    before, _, after = page.partition('id="data"')
    assert not re.search(r"https?:|//\w|\bsrc\s*=|\bhref\b|url\(|@import", before)
    assert not re.search(r"https?:|innerHTML|\beval\b|\bfetch\b|\bimport\b", after)
    assert "default-src 'none'" in before
