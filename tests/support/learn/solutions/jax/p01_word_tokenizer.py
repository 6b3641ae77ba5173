"""Words by regular expressions."""

import re


def _split(text):
    return [part for part in re.split(r"""([,.:;?_!"()']|--|\s)""", text) if part and not part.isspace()]


def build_vocabulary(text):
    return sorted(set(_split(text))) + ["<|endoftext|>", "<|unk|>"]


def encode(text, vocabulary):
    ids = {word: i for i, word in enumerate(vocabulary)}
    return [ids.get(word, ids["<|unk|>"]) for word in _split(text)]


def decode(ids, vocabulary):
    return re.sub(r"""\s+([,.:;?!"()'])""", r"\1", " ".join(vocabulary[i] for i in ids))
