"""The toy world: a small GPT-2 and a small restaurant data set, both made by this project.

`dice` and `words` draw and invent, `world` writes the pre-training text, `restaurants` writes the
target data set in E2E's file format, `pretrain` turns the text into a tokenizer and a base model.
The results ship beside the code, in `base/` and `data/`; `python -m scripts.toy.__main__` rebuilds them.
"""
