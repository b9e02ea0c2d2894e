"""The figures: from plain data to pictures that can be read at the printed width of a column.

One file per kind, each with the data that it draws, and `draw` from data to a matplotlib figure:

    energy      Figure 2, energy kept against the rank and against the entries kept
    curves      a score against the bottleneck dimension r (Table 3)
    tradeoff    a score against multiply-accumulates (Table 2)
    losses      the losses of training

`style` holds what they share: sizes, colours, saving. A table says in its YAML file by which of them it is shown.
"""
