"""Command-line tools around the harness: `python -m scripts VERB`, or `python -m scripts.<module>`."""
