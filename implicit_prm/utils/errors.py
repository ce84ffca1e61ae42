"""The one exception type of the package."""


class ImplicitPRMError(ValueError):
    """Invalid input or options. The message names the row, file or option and how to fix it."""
