"""Characters as an array of code points."""

import numpy as np


def _points(text):
    return np.array([ord(character) for character in text], np.int64)


def build_vocabulary(text):
    return [chr(point) for point in np.unique(_points(text))]


def encode(text, vocabulary):
    return np.searchsorted(_points(vocabulary), _points(text)).tolist()


def decode(ids, vocabulary):
    return "".join(map(chr, _points(vocabulary)[np.array(ids, np.int64)]))
