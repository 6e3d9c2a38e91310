"""What all tools share at the command line: arguments, log lines, errors as one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from typing import Any, Callable, Sequence

from .errors import ConfigError, PpemaError

_INTERRUPTED = 130
_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_TIME = "%m/%d %H:%M:%S"


def run_tool(main: Callable[[Sequence[str]], int]) -> None:
    """Call `main` with the arguments, and exit with its code; an error is one line on stderr."""
    # Paddle warns at import that ccache is missing, which matters to nobody here.
    warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
    try:
        code = main(sys.argv[1:])
    except PpemaError as error:
        code = _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away; what it did not read is of no use to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 6)
    finally:
        log_to()
    sys.exit(code)


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser with the arguments that every tool has, and errors of one line."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, allow_abbrev=False)
        self.add_argument("-c", "--config", required=True, metavar="FILE", help="config file")
        self.add_argument(
            "-o",
            "--opt",
            nargs="+",
            action="extend",
            default=[],
            metavar="KEY=VALUE",
            help="set config keys, e.g. -o epoch=2 Averages.ema.decay=0.999",
        )

    def error(self, message: str) -> Any:
        """Raise ConfigError in place of printing the usage."""
        raise ConfigError(f"{message} (see --help)")


def parse_bool(text: str) -> bool:
    """Return the bool that `text` says.

    Raises:
        argparse.ArgumentTypeError: it says neither true nor false.
    """
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return values[text.lower()]


def log_to(*handlers: logging.Handler) -> None:
    """Send ppema's log, from here on, to these handlers and no others."""
    root = logging.getLogger("ppema")
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False


def screen(hide_steps: bool = False) -> logging.Handler:
    """Return the handler that prints the log; `hide_steps` where a progress bar shows them."""
    handler = logging.StreamHandler(sys.stdout)
    if hide_steps:
        handler.addFilter(lambda record: not getattr(record, "is_step", False))
    return handler


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
