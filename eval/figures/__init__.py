"""The figures, drawn at the size they are printed at.

energy       Figure 2: energy kept against the rank and against the entries kept
scores       a table's scores against r (Table 3) or against multiply-accumulates (Table 2)
differences  a table's differences to one row, with their intervals
losses       the losses of training
style        what they share: size, colours, saving
"""
