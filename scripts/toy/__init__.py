"""Generator of the toy world: a small GPT-2 and a small restaurant data set, which ship in `loda/lab/toy`.

`world` writes the pre-training text, `restaurants` the target data set, `pretrain` a tokenizer and a base model.
"""
