"""Characters, one after the other."""


def build_vocabulary(text):
    vocabulary = []
    for character in text:
        place = 0
        while place < len(vocabulary) and vocabulary[place] < character:
            place += 1
        if place == len(vocabulary) or vocabulary[place] != character:
            vocabulary.insert(place, character)
    return vocabulary


def encode(text, vocabulary):
    ids = []
    for character in text:
        for i in range(len(vocabulary)):
            if vocabulary[i] == character:
                ids.append(i)
    return ids


def decode(ids, vocabulary):
    text = ""
    for i in ids:
        text += vocabulary[i]
    return text
