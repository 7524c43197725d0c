def portable(text, inputs):
    return text, list(inputs)
