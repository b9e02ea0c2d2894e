"""The exception for user errors."""


class LodaError(ValueError):
    """A user error. The message is one sentence: the value, the rule that it breaks, and the remedy.

    Command-line tools print the message and end with exit code 2. Any other exception is a defect of this project and
    keeps its traceback.
    """


def describe(error: Exception) -> str:
    """The sentence of a LodaError; of any other exception its class too."""
    return str(error) if isinstance(error, LodaError) else f"{type(error).__name__}: {error}"
