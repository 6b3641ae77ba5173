"""Characters by set and dict."""


def build_vocabulary(text):
    return sorted(set(text))


def encode(text, vocabulary):
    ids = {character: i for i, character in enumerate(vocabulary)}
    return [ids[character] for character in text]


def decode(ids, vocabulary):
    return "".join(vocabulary[i] for i in ids)
