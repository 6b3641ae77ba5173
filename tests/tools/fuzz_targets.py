"""What is fuzzed: for each loader its seeds, their mutations, and how the files are used."""

import hashlib
import io
import json
import struct
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import examples
import headers
import numpy as np
from damage import Rng, hostile_text, mutate_bytes, mutate_json, mutate_lines, pick
from models import TINY, VARIANTS

from jaxllm import InputError
from jaxllm.compare.foreign.names import read_map
from jaxllm.compare.foreign.template import template
from jaxllm.compare.foreign.trace import read_trace
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data.shards import INDEX, open_split, read_index, verify
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained import gguf, safetensors
from jaxllm.pretrained import gguf_quantised as quantised
from jaxllm.pretrained.parameter_map import nested
from jaxllm.pretrained.peft import read_adapter, write_adapter
from jaxllm.pretrained.peft_settings import ADAPTER_WEIGHTS
from jaxllm.reference.arrays import leaves
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from jaxllm.tokenizers.formats import from_hugging_face, from_tiktoken, to_hugging_face, to_tiktoken
from train.config_file import build_config, load_config
from train.runs.manifest import MANIFEST, Manifest, _encode, check_files, new_manifest, read_manifest, seal
from train.runs.metrics import read_metrics
from train.tasks.choices import completions, read_questions
from train.tune.data import read_tune_data
from train.tune.examples import Kind
from train.tune.fitting import TooLong
from train.tune.preview import preview_pieces

Files = dict[str, bytes]
FILE = "input"
TEXT = "The cat's name isn't known, but they'd 12 cats; é 東京 🙂\n\nand so on and so on."
LONGEST_PROMPT = 20_000  # characters


class Target(NamedTuple):
    """`make` files from a generator, and `use` the folder that holds them."""

    make: Callable[[Rng], Files]
    use: Callable[[Path], object]


@cache
def tokenizers() -> tuple[Tokenizer, ...]:
    bpe = BPETokenizer.train(TEXT, 280)
    return CharTokenizer.train(TEXT), WordTokenizer.train(TEXT), bpe, BPETokenizer(bpe.tokens, {"<|endoftext|>": 0})


@cache
def written(write: Callable[[Tokenizer, Path], None], only_bpe: bool = True) -> tuple[bytes, ...]:
    """Files of valid tokenizers."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for tokenizer in tokenizers()[2 if only_bpe else 0 :]:
            write(tokenizer, Path(folder, FILE))
            found.append(Path(folder, FILE).read_bytes())
    return tuple(found)


def json_or_bytes(rng: Rng, seeds: tuple[bytes, ...]) -> bytes:
    return mutate_bytes(rng, seeds) if rng.random() < 0.3 else mutate_json(rng, json.loads(pick(rng, seeds)))


# ---- configs

CONFIG = """
[data]
source = "python-docs"
field = "text"
attend_across = true
sha256 = "0"
characters = 100
[tokenizer]
kind = "bpe"
vocab_size = 1024
path = "x"
[model]
d_model = 64
n_layers = 2
n_heads = 2
n_kv_heads = 1
context_length = 64
position = "learned"
dropout = 0.1
separator = 0
[train]
steps = 100
batch_size = 12
grad_accumulation = 2
dtype = "float32"
[optimizer]
learning_rate = 1e-3
warmup_steps = 10
beta2 = 0.99
[eval]
every = 10
prompt = "a"
temperature = 0.8
[checkpoint]
every = 10
keep = 2
"""
CONFIGS = (
    CONFIG,
    "\n".join(line for line in CONFIG.split("\n") if not line.startswith("path")),
    "[data.source]\na = 1",
)
FIELDS = tuple(
    f"{section}.{name}={json.dumps(value)}"
    for section, values in tomllib.loads(CONFIG).items()
    for name, value in values.items()
)


def make_config(rng: Rng) -> Files:
    if rng.random() < 0.3:
        return {FILE: mutate_bytes(rng, [text.encode() for text in CONFIGS])}
    return {FILE: mutate_lines(rng, pick(rng, CONFIGS))}


def make_overrides(rng: Rng) -> Files:
    chosen = [pick(rng, FIELDS) for _ in range(rng.integers(1, 4))]
    if rng.random() < 0.3:
        return {FILE: mutate_bytes(rng, ["\0".join(chosen).encode()])}
    return {FILE: b"\0".join(mutate_lines(rng, one) if rng.random() < 0.8 else one.encode() for one in chosen)}


def use_overrides(folder: Path) -> None:
    """Command-line arguments: bytes that are not UTF-8 become lone surrogates."""
    build_config({}, (folder / FILE).read_bytes().decode("utf-8", "surrogateescape").split("\0"))


# ---- tokenizers


def use_tokenizer(folder: Path) -> None:
    try_out(load_tokenizer(folder / FILE))


def try_out(tokenizer: Tokenizer) -> None:
    try:
        ids = tokenizer.encode(TEXT)
    except InputError:  # for a character that the tokenizer lacks
        ids = [0]
    tokenizer.decode(ids)
    tokenizer.decode([tokenizer.vocab_size - 1])


BESIDE = tuple(
    json.dumps({"pat_str": regex, "special_tokens": {"<|endoftext|>": 300}}).encode()
    for regex in (r"\s+(?!\S)|\p{L}{1,3}|(?i:'s|'d)?[^\s]|\s", r"(?:(?=a)a|\w{2,})*|(.)\1|[\s\S]", "[^a]|a")
)


def make_exchange(rng: Rng) -> Files:
    if rng.random() < 0.6:
        return {"hugging_face": json_or_bytes(rng, written(to_hugging_face))}
    seeds = written(to_tiktoken)
    made = {
        "tiktoken": mutate_bytes(rng, seeds) if rng.random() < 0.5 else mutate_lines(rng, pick(rng, seeds).decode())
    }
    return made | ({"tiktoken.json": json_or_bytes(rng, BESIDE)} if rng.random() < 0.5 else {})


def use_exchange(folder: Path) -> None:
    if (folder / "hugging_face").exists():
        return try_out(from_hugging_face(folder / "hugging_face"))
    pattern = None if (folder / "tiktoken.json").exists() else "gpt2"
    try_out(from_tiktoken(folder / "tiktoken", pattern=pattern))


def make_prompt(rng: Rng) -> Files:
    return {FILE: hostile_text(rng, LONGEST_PROMPT).encode("utf-8", "surrogatepass")}


def use_prompt(folder: Path) -> None:
    text = (folder / FILE).read_bytes().decode("utf-8", "surrogatepass")
    refusals = []
    for tokenizer in tokenizers():
        try:
            tokenizer.decode(tokenizer.encode(text))
        except InputError as error:
            refusals.append(error)
    if refusals:
        raise refusals[-1]


# ---- data and runs


@cache
def shards() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "text.txt").write_text(TEXT)
        Path(folder, "more.jsonl").write_text("".join(json.dumps({"text": f"{TEXT} {i}"}) + "\n" for i in range(20)))
        out = Path(folder, "out")
        prepare_shards([f"{folder}/text.txt", f"{folder}/more.jsonl"], tokenizers()[2], out, validation=0.3)
        return {path.name: path.read_bytes() for path in out.iterdir()}


def make_shards(rng: Rng) -> Files:
    files = dict(shards())
    content = json.loads(files[INDEX])
    if rng.random() < 0.3:
        shard = pick(rng, content["splits"]["train"])
        files[shard["file"]] = mutate_bytes(rng, [files[shard["file"]]])
        if rng.random() < 0.7:  # another text, with an index that fits
            shard["sha256"] = hashlib.sha256(files[shard["file"]]).hexdigest()
            shard["count"] = len(files[shard["file"]]) // 2
        files[INDEX] = json.dumps(content).encode()
    else:
        files[INDEX] = json_or_bytes(rng, (files[INDEX],))
    return files


def use_shards(folder: Path) -> None:
    index = read_index(folder)
    verify(folder, index)
    for split in index.splits:
        row = open_split(folder, index, split)
        row[0:10].sum(), row[len(row) // 2 :].sum(), row[-1:].tolist()


METRICS = tuple(
    {"step": i, "tokens": i * 100, "elapsed_s": i / 2, "train_loss": 4.5, "learning_rate": 1e-3, "grad_norm": 1.0,
     "tokens_per_s": 1000, "val_loss": 4.0}
    for i in range(1, 5)
)  # fmt: skip


def make_metrics(rng: Rng) -> Files:
    lines = [json.dumps(record).encode() for record in METRICS]
    if rng.random() < 0.3:
        return {FILE: mutate_bytes(rng, [b"\n".join(lines) + b"\n"])}
    i = int(rng.integers(len(lines)))
    lines[i] = mutate_json(rng, METRICS[i])
    return {FILE: b"\n".join(lines) + b"\n"}


@cache
def checkpoint() -> Files:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inside").mkdir()
        (folder / "inside" / "a").write_bytes(b"a" * 100)
        (folder / "b").write_bytes(b"")
        seal(folder, new_manifest(10, 1.5, {"train": {"steps": 10}}, "0" * 64), {})
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_manifest(rng: Rng) -> Files:
    """Manifests, half of the readable ones with a valid sum of themselves."""
    import msgspec

    files = dict(checkpoint())
    files[MANIFEST] = json_or_bytes(rng, (files[MANIFEST],))
    if rng.random() < 0.5:
        try:
            files[MANIFEST] = _encode(msgspec.json.decode(files[MANIFEST], type=Manifest))
        except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
            pass
    return files


def use_manifest(folder: Path) -> None:
    check_files(folder, read_manifest(folder))


EXAMPLES: dict[Kind, Any] = {
    "instruct": {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": []}]
    },
    "classify": {"text": "a", "label": "b"},
    "prefer": {"prompt": "a", "chosen": "b", "rejected": "c"},
}


def make_examples(rng: Rng) -> Files:
    """A file that is named after its kind, of a right line, a changed one and a right one."""
    kind = pick(rng, list(EXAMPLES))
    line = json.dumps(EXAMPLES[kind] | ({"label": "c"} if kind == "classify" else {})).encode()
    right = json.dumps(EXAMPLES[kind]).encode()
    changed = mutate_bytes(rng, [right]) if rng.random() < 0.3 else mutate_json(rng, EXAMPLES[kind])
    return {kind: b"\n".join([line, changed, right])}


def use_examples(folder: Path) -> None:
    """Read, rendered, cut and drawn."""
    path = next(folder.iterdir())
    too_long: TooLong = pick(np.random.default_rng(path.stat().st_size), ["refuse", "cut", "drop"])
    kind = cast(Kind, path.name)
    data = read_tune_data(str(path), kind, examples.BYTES, examples.chat_format(), 64, too_long=too_long)
    data.draw(2, 0, 0)
    for one in data.train.examples[0]:
        list(preview_pieces(one, data.tokenizer, data.labels))


QUESTION = {"query": "The sky is", "choices": [" blue.", " a river.", " é"], "answer": 1}


def make_questions(rng: Rng) -> Files:
    """A right line and a changed one."""
    right = json.dumps(QUESTION).encode()
    return {FILE: b"\n".join([right, json_or_bytes(rng, (right,))])}


def use_questions(folder: Path) -> None:
    """Read and encoded."""
    questions = read_questions(folder / FILE)
    found = completions(questions, examples.BYTES.encode, 0, 64)
    assert len(found) == sum(len(question.choices) for question in questions)
    assert all(0 < len(one.continuation) <= 64 and one.context for one in found)


# ---- weights

HEADER = {
    "__metadata__": {"format": "pt"}, "a": headers.entry("F32", [2, 3], 0, 24), "b": headers.entry("BF16", [], 24, 26),
    "c": headers.entry("BOOL", [3], 26, 29), "d": headers.entry("F64", [0, 5], 29, 29),
}  # fmt: skip
GGUFS = (
    headers.gguf(
        [
            headers.pair("general.architecture", headers.STRING, headers.string("gpt2")),
            headers.scalar("general.alignment", "u4", 64),
            *(headers.scalar(f"a.{kind}", kind, 1) for kind in headers.TYPES),
            headers.pair("n", headers.ARRAY, headers.array(6, [struct.pack("<f", i) for i in range(3)])),
            headers.pair("s", headers.ARRAY, headers.array(headers.STRING, [headers.string("é"), headers.string("")])),
            headers.pair("t", headers.ARRAY, headers.array(headers.ARRAY, [headers.array(0, [b"\1"])] * 3)),
        ],
        [headers.tensor("a", [3, 2], 0, 0), headers.tensor("b", [2], 30, 64), headers.tensor("q", [64, 2], 8, 128)],
        bytes(128 + 136), alignment=64,
    ),
    headers.gguf([], [headers.tensor("q", [256], 12, 0)], bytes(144)),
    headers.gguf([headers.scalar("k", "bool", 1)], version=2),
)  # fmt: skip


ADAPTED = replace(TINY, **VARIANTS["llama"] | {"mup_base_width": None, "sliding_window": None})


@cache
def adapter() -> Files:
    """An adapter in PEFT's layout, and a norm that was trained in full."""
    rng = np.random.default_rng(0)
    parts = {
        f"block_0/{path}/kernel/{name}": rng.normal(size=shape).astype(np.float32)
        for path, width in (("attention/query", 8), ("mlp/up", 32))
        for name, shape in (("a", (8, 2)), ("b", (2, width)))
    }
    with tempfile.TemporaryDirectory() as folder:
        full = {"norm_final": {"scale": np.ones(8, np.float32)}}
        write_adapter(Path(folder, "peft"), ADAPTED, nested(parts), 2, 3.0, 0.1, "base", "", full)
        return {path.name: path.read_bytes() for path in Path(folder, "peft").iterdir()}


def make_adapter(rng: Rng) -> Files:
    """Changed settings, or weights with a changed header or changed bytes."""
    files = dict(adapter())
    name, weights = pick(rng, list(files)), files[ADAPTER_WEIGHTS]
    if name != ADAPTER_WEIGHTS:
        files[name] = json_or_bytes(rng, (files[name],))
    elif rng.random() < 0.5:
        files[name] = mutate_bytes(rng, [weights])
    else:
        end = 8 + int.from_bytes(weights[:8], "little")
        header = mutate_json(rng, json.loads(weights[8:end]))
        files[name] = len(header).to_bytes(8, "little") + header + weights[end:]
    return files


def use_adapter(folder: Path) -> None:
    read = read_adapter(folder, ADAPTED)
    assert read.rank > 0 and all(np.isfinite(x).all() for x in leaves(read.adapter) + leaves(read.full))


def make_safetensors(rng: Rng) -> Files:
    if rng.random() < 0.4:
        return {FILE: mutate_bytes(rng, [headers.safetensors(HEADER, bytes(29)), headers.safetensors({})])}
    return {FILE: headers.safetensors(mutate_json(rng, HEADER), bytes(29))}


def use_safetensors(folder: Path) -> None:
    for tensor in safetensors.read_header(folder / FILE).tensors.values():
        safetensors.read_tensor(folder / FILE, tensor).tobytes()


def use_gguf(folder: Path) -> None:
    for tensor in gguf.read_header(folder / FILE).tensors.values():
        gguf.read_tensor(folder / FILE, tensor).tobytes()


def make_quantised(rng: Rng) -> Files:
    kind, (_, block, size, _) = pick(rng, list(gguf.TYPES.items()))
    content = headers.gguf([], [headers.tensor("x", [2 * block, 3], kind, 0)], rng.bytes(6 * size))
    return {FILE: mutate_bytes(rng, [content]) if rng.random() < 0.5 else content}


def use_quantised(folder: Path) -> None:
    for tensor in gguf.read_header(folder / FILE).tensors.values():
        quantised.read_float(folder / FILE, tensor)


NAMES_OF_A_MAP = (
    b'[parameters]\n"token_embedding/table" = "wte"\n"block_{i}/mlp/up/kernel" = { from = "h.{i}.up", part = [0, 3] }\n',
    b'[outputs]\n"block_0" = { from = "h.0", axes = [0, 2, 1], merge = true, add = 1.5, heads = 2 }\n"logits" = "."\n',
)
RECORDING = {
    "tokens": np.zeros((1, 2), np.int32), "targets": np.ones((1, 2), np.int64), "loss": np.ones(()),
    "param/wte": np.ones((3, 2), np.float32), "out/": np.ones((1, 2, 3), order="F"),
}  # fmt: skip


def make_recording(rng: Rng) -> Files:
    """An .npz with changed bytes, or an archive of which a member or the JSON is changed."""
    about = mutate_json(
        rng, {"dtype": "float32", "classes": {"h": "Block"}, "optimizer": {"class": "SGD", "groups": []}}
    )
    members = {}
    for name, x in (RECORDING | {"about": np.array(about.decode(errors="ignore"))}).items():
        file = io.BytesIO()
        np.save(file, x)
        members[name] = mutate_bytes(rng, [file.getvalue()]) if rng.random() < 0.1 else file.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return {FILE: mutate_bytes(rng, [out.getvalue()]) if rng.random() < 0.3 else out.getvalue()}


TARGETS = {
    "config": Target(make_config, lambda folder: load_config(folder / FILE)),
    "overrides": Target(make_overrides, use_overrides),
    "tokenizer": Target(
        lambda rng: {FILE: json_or_bytes(rng, written(type(tokenizers()[0]).save, False))}, use_tokenizer
    ),
    "exchange": Target(make_exchange, use_exchange),
    "prompt": Target(make_prompt, use_prompt),
    "shards": Target(make_shards, use_shards),
    "metrics": Target(make_metrics, lambda folder: read_metrics(folder / FILE)),
    "examples": Target(make_examples, use_examples),
    "questions": Target(make_questions, use_questions),
    "manifest": Target(make_manifest, use_manifest),
    "safetensors": Target(make_safetensors, use_safetensors),
    "adapter": Target(make_adapter, use_adapter),
    "gguf": Target(lambda rng: {FILE: mutate_bytes(rng, GGUFS)}, use_gguf),
    "quantised": Target(make_quantised, use_quantised),
    "recording": Target(make_recording, lambda folder: read_trace(folder / FILE)),
    "names": Target(
        lambda rng: {FILE: mutate_bytes(rng, NAMES_OF_A_MAP) if rng.random() < 0.8 else pick(rng, NAMES_OF_A_MAP)},
        lambda folder: read_map(folder / FILE, parameter_shapes(TINY), template(TINY).outputs),
    ),
}
