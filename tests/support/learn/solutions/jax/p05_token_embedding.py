def token_embedding(table, tokens):
    return table[tokens]
