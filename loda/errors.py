"""The exception for user errors."""


class LodaError(ValueError):
    """A user error. The message is one sentence: the value, the rule that it breaks, and the remedy.

    Command-line tools print the message and end with exit code 2. Any other exception is a defect of this project and
    keeps its traceback.
    """
