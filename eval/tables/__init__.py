"""The paper's tables, filled with our runs. In reading order:

spec       what `configs/table/*.yaml` says
runs       which experiments a row needs
fill       which scores belong to a row; mean and deviation
bootstrap  intervals and differences over test contexts and seeds
render     Markdown, LaTeX, CSV, JSON
"""
