"""Words, one character after the other."""

MARKS = ",.:;?_!\"()'"


def _words(text):
    words, word, i = [], "", 0
    while i < len(text):
        width = 2 if text[i : i + 2] == "--" else 1
        if width == 2 or text[i] in MARKS or text[i].isspace():
            if word:
                words.append(word)
            word = ""
            if not text[i].isspace():
                words.append(text[i : i + width])
        else:
            word += text[i]
        i += width
    if word:
        words.append(word)
    return words


def build_vocabulary(text):
    vocabulary = []
    for word in _words(text):
        if word not in vocabulary:
            vocabulary.append(word)
    vocabulary.sort()
    vocabulary.append("<|endoftext|>")
    vocabulary.append("<|unk|>")
    return vocabulary


def encode(text, vocabulary):
    ids = []
    for word in _words(text):
        found = len(vocabulary) - 1
        for i in range(len(vocabulary)):
            if vocabulary[i] == word:
                found = i
        ids.append(found)
    return ids


def decode(ids, vocabulary):
    text = ""
    for place, i in enumerate(ids):
        if place > 0 and (len(vocabulary[i]) > 1 or vocabulary[i] not in MARKS.replace("_", "")):
            text += " "
        text += vocabulary[i]
    return text
