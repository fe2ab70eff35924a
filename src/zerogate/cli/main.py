"""The command line: `zerogate COMMAND`. Each command is one function in the file of its name; this file runs them.

Nothing here or at the top of a command's file imports torch: a command imports what it needs inside its function, so
that help is quick. What a user can mend ends as one line on stderr and exit code 2, a stopped program as 130, the
rest as a traceback.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import warnings
from typing import Annotated

import typer

from zerogate.errors import UserError

app = typer.Typer(
    name="zerogate",
    help="Zero-init attention for any frozen transformer: train a fraction of a percent, gates open from zero.",
    epilog="Start with `zerogate demo`. Each command explains itself: `zerogate train --help`.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# In the order of the help page. Each is the function `NAME` in `zerogate.cli.NAME`, with its examples in `EPILOG`.
COMMANDS = (
    "demo",
    "train",
    "compare",
    "preview",
    "chat",
    "generate",
    "predict",
    "serve",
    "eval",
    "score",
    "judge",
    "inspect",
    "convert",
    "mcp",
    "toolform",
)


for _name in COMMANDS:
    _module = importlib.import_module(f"zerogate.cli.{_name}")
    app.command(_name, epilog=_module.EPILOG)(vars(_module)[_name])


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"zerogate {version('zerogate')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Zero-init attention for any frozen transformer: train a fraction of a percent, gates open from zero."""


def main() -> None:
    """Run the command line and exit with its code."""
    # The libraries' advice to programmers would only cut through answers and progress bars; a user may ask for it back.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`| head`) is gone: there is no one to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _fail(f"{error.strerror}: {error.filename or 'a file that was being written'}")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
