"""Exit codes of the command line, by name: a missing server is not a failed request."""

from enum import IntEnum

from agents.settings import InvalidSetting, UnknownSetting
from schemas.errors import OxygenRecError


class ExitCode(IntEnum):
    """What a command's exit code means."""

    OK = 0
    FAILED = 1  # it was tried and went wrong
    USAGE = 2  # the command line or a setting is wrong
    MISSING = 3  # a server, data or a port cannot be had on this machine
    NOT_RUNNING = 4  # no stack runs here
    INCOMPLETE = 5  # the demo ran, and something it must show did not happen
    INTERRUPTED = 130  # Ctrl-C, as shells count it


def exit_code_of(error: OxygenRecError) -> ExitCode:
    """Returns the exit code of an error that reached the command line."""
    from models.training.rows import UnusableFolder
    from streams.admin import BrokerSilent
    from streams.local.errors import LocalServerError, NotRunning, ServerExited, UnknownProcess

    if isinstance(error, UnknownSetting | InvalidSetting | UnknownProcess):
        return ExitCode.USAGE
    if isinstance(error, NotRunning):
        return ExitCode.NOT_RUNNING
    if isinstance(error, LocalServerError) and not isinstance(error, ServerExited):
        return ExitCode.MISSING
    if isinstance(error, BrokerSilent | UnusableFolder):
        return ExitCode.MISSING
    code = getattr(error, "exit_code", None)
    return code if isinstance(code, ExitCode) else ExitCode.FAILED
