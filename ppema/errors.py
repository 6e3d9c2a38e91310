"""The errors that end a tool with one line: each class carries its exit code."""

from __future__ import annotations


class PpemaError(Exception):
    """Say in one line what was found, where, and what is allowed."""

    exit_code = 1


class ConfigError(PpemaError):
    """A config file or a command-line argument is wrong."""

    exit_code = 2


class DataError(PpemaError):
    """Training or evaluation data is missing, damaged or does not fit."""

    exit_code = 3


class OtherDataError(DataError):
    """The data are not those of the run that is to go on."""


class CheckpointError(PpemaError):
    """A checkpoint or a weight file is missing, damaged or does not fit."""

    exit_code = 3


class NonFiniteError(PpemaError):
    """A weight, a gradient or a loss is NaN or infinite."""

    exit_code = 4


class FolderInUseError(PpemaError):
    """Another process is training in the same run folder."""

    exit_code = 5


class StorageError(PpemaError):
    """The disk refused: full, read-only or failing."""

    exit_code = 6


class StoppedError(PpemaError):
    """A signal ended the run; its exit code is the one a shell gives for that signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + int(signal_number)


def telling_line(error: BaseException) -> str:
    """Return the line of an error that says why: Paddle's come with a page of C++ calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error: " in line or line.startswith("(")]
    return (telling or lines or [type(error).__name__])[0][:300]
