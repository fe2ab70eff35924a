"""The one exception for what a user can mend: it says what is wrong, where, and the way out."""


class UserError(ValueError):
    """Bad input, found before work starts. The command line prints its message alone and exits with code 2."""
