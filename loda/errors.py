"""The one exception of the project that speaks to its user."""


class LodaError(ValueError):
    """A mistake that the user can mend: the message names the value, the rule and the remedy.

    Command-line tools print it as one line and end with exit code 2. Anything else that is raised is a
    defect of this project and keeps its traceback.
    """
