"""Command-line tools around the harness, run as `python -m scripts.<name>`."""
