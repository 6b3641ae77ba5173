def linear(x, kernel, bias=None):
    y = x @ kernel
    if bias is not None:
        y = y + bias
    return y
