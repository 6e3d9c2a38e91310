"""What all tools share at the command line: arguments, log lines, errors as one line."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import sys
import traceback
import warnings
from types import FrameType
from typing import Any, Callable, Optional, Sequence

from . import progress
from .errors import ConfigError, PpemaError
from .launch import is_launched, launched_rank, num_launched
from .stop_signals import expect_several, handler_of_more

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TRACEBACK = "PPEMA_TRACEBACK"
# The process that started this one, where that is to stop it by its own end.
PARENT = "PPEMA_PARENT"
_PR_SET_PDEATHSIG = 1
_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
_TIME = "%m/%d %H:%M:%S"
# Of the tool that runs: whether it was told --quiet.
_is_quiet = False
# Of glibc's malloc.h; larger blocks than its largest threshold go back to the system at once.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
_TRIM_THRESHOLD = 1 << 30


def run_tool(main: Callable[[Sequence[str]], int], shares_work: bool = False) -> None:
    """Call `main` with the arguments, and exit with its code; an error is one line on stderr.

    So is a signal that comes where no step of a training run is to be saved. Of several processes
    that were launched, which only a tool can use that `shares_work`, the first speaks for all.
    """
    _handle_signals()
    # Paddle warns at import that ccache is missing, which matters to nobody here.
    warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
    # Paddle's own, at each run of a network with BatchNorm.
    warnings.filterwarnings("ignore", message="When training, we now always track")
    keep_freed_memory()
    _make_stdout_safe()
    be_quiet(launched_rank() > 0)
    try:
        if num_launched() > 1 and not shares_work:
            raise ConfigError("this tool works in one process; start it without a launcher")
        _follow_parent()
        code = main(sys.argv[1:])
    except PpemaError as error:
        code = _fail(str(error), error.exit_code)
    except KeyboardInterrupt as interrupt:
        received = interrupt.received if isinstance(interrupt, _Interrupted) else signal.SIGINT
        code = _fail(f"interrupted by {received.name}", 128 + received)
    except BrokenPipeError:
        # The reader of our output went away; what it did not read is of no use to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", 6)
    except Exception as error:
        if os.environ.get(_TRACEBACK):
            raise
        code = _fail(f"{_where(error)}{type(error).__name__}: {_first_line(error)}", 1)
    finally:
        # What is left is Python's own end, from which an exception would come as a page.
        _reset_signals()
        log_to()
    sys.exit(code)


def import_paddle() -> None:
    """Import Paddle, for a second in which a signal must not raise: it could surface anywhere.

    SIGINT ends the process at once and in silence. For SIGTERM Paddle sets a handler of its own,
    which prints a page: it waits until ours is back.
    """
    if num_launched() > 1:
        # Each process would say which ports it found.
        os.environ.setdefault("GLOG_minloglevel", "1")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        import paddle  # noqa: F401
    finally:
        _handle_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


class PlainParser(argparse.ArgumentParser):
    """An argument parser with `--quiet`, and errors of one line."""

    def __init__(self, description: str, prog: Optional[str] = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument(
            "--quiet", action=_BeQuiet, help="say warnings, errors and results, and no more"
        )

    def error(self, message: str) -> Any:
        """Raise ConfigError in place of printing the usage."""
        raise ConfigError(f"{message} (see --help)")


class ArgumentParser(PlainParser):
    """An argument parser with the arguments that every tool with a config has.

    Args:
        description: what the tool does, with its command.
        prog: the command, where it is more than the script.
        needs_config: whether `-c` must be given.
    """

    def __init__(
        self, description: str, prog: Optional[str] = None, needs_config: bool = True
    ) -> None:
        super().__init__(description, prog)
        self.add_argument(
            "-c", "--config", required=needs_config, metavar="FILE", help="config file"
        )
        self.add_argument(
            "-o",
            "--opt",
            nargs="+",
            action="extend",
            default=[],
            metavar="KEY=VALUE",
            help="set config keys, e.g. -o epoch=2 Averages.ema.decay=0.999",
        )


class _BeQuiet(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, help=help)

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, True)
        be_quiet(True)


def be_quiet(is_quiet: bool) -> None:
    """Say nothing but warnings, errors and results from here on, or all again."""
    global _is_quiet
    _is_quiet = is_quiet
    progress.enable(not is_quiet)


def say(text: str) -> None:
    """Print what a result is of: data, weights, place; nothing where the user wants it quiet."""
    if not _is_quiet:
        print(text)


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
        # What a full disk refused was said when it did.
        with contextlib.suppress(OSError):
            old.close()
    for handler in handlers:
        handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False


class Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """Print the log; where a progress line stands for the step lines, print the others above it.

    With `--quiet` only warnings are printed, and records with `is_result`. A training run outlives
    its screen: once the reader of its output is gone, it goes on without (train.log has it all).
    """

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        is_minor = record.levelno < logging.WARNING and not getattr(record, "is_result", False)
        has_line = progress.can_be_shown() and self.stream.isatty()
        if (_is_quiet and is_minor) or (has_line and getattr(record, "is_step", False)):
            return
        progress.wipe()
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Go quiet where the output is gone; an error of our own is raised."""
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, ValueError)):
            raise
        self.setStream(open(os.devnull, "w"))  # noqa: SIM115


class _Interrupted(KeyboardInterrupt):
    """A signal came; no handler of `Exception` takes this for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.received = signal.Signals(number)


def _handle_signals() -> None:
    """Let the first signal unwind the tool, which clears up after itself, and a second end it."""
    process = os.getpid()

    def interrupt(number: int, frame: Optional[FrameType]) -> None:
        if os.getpid() != process:
            # A worker that was forked just now has nothing to clear up, and nothing to say.
            os._exit(128 + number)
        _reset_signals()
        raise _Interrupted(number)

    for number in _SIGNALS:
        signal.signal(number, interrupt)


def _reset_signals() -> None:
    # Paddle's launcher sends SIGTERM three times within a second, and SIGKILL in the end.
    for number in _SIGNALS:
        signal.signal(number, handler_of_more(is_launched()))


def _follow_parent() -> None:
    """Have the system send SIGTERM once the process that `PPEMA_PARENT` names is gone.

    A study's runs are to save and end where the study itself is killed.
    """
    parent = os.environ.pop(PARENT, "")
    if not parent or sys.platform != "linux":
        return
    expect_several()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if str(os.getppid()) != parent:
        # It was gone before.
        os.kill(os.getpid(), signal.SIGTERM)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next layer's output.

    By its own rules glibc may give it back after each layer and take it anew, a page fault for
    every 4 KiB: a quarter of the time of LeNet's evaluation. Other C libraries, and a user's own
    settings, are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    is_set = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if mallopt is None or is_set:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)


def _make_stdout_safe() -> None:
    """Let output to a closed or narrow stdout lose characters, not the run."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    elif hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _where(error: BaseException) -> str:
    """Return the file and line that raised, which may well be in the user's own model."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0] if lines else 'no message'} (set {_TRACEBACK}=1 to see the calls)"


def _fail(message: str, code: int) -> int:
    progress.wipe()
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        # Of a full disk, say: the code must still tell, and Python's own end would try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code
