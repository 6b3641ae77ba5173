"""Words by a search for tokens, not for what separates them."""

import re

TOKEN = re.compile(r"""--|[,.:;?_!"()']|(?:(?!--)[^\s,.:;?_!"()'])+""")


def build_vocabulary(text):
    return [*sorted({match[0] for match in TOKEN.finditer(text)}), "<|endoftext|>", "<|unk|>"]


def encode(text, vocabulary):
    return [vocabulary.index(t if t in vocabulary else "<|unk|>") for t in TOKEN.findall(text)]


def decode(ids, vocabulary):
    tokens = [vocabulary[i] for i in ids]
    spaces = [" " if t not in set(",.:;?!\"()'") else "" for t in tokens]
    return "".join(space + token for space, token in zip(["", *spaces[1:]], tokens, strict=False))
