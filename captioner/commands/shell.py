"""What every command shares with the shell: one-line errors, exit statuses, log lines on standard error."""

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from captioner.errors import DISK_FULL, CaptionerError, ConfigError


class CommandParser(argparse.ArgumentParser):
    """A command's arguments, with examples below its help; wrong ones are one line, without the usage above it."""

    def __init__(self, prog: str, description: str, *, examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of leaving the process."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def guard(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; an expected error becomes one line on standard error.

    Arguments:
        main: the command; takes its arguments without the program's name and returns the exit status.
        argv: the arguments, None for those of the process. ``--debug`` anywhere in them is taken out, and lets
            errors through with their traceback.

    Returns 2 after a CaptionerError or an operating-system error, 130 after Ctrl-C, else what ``main`` returned.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    with log_to_stderr():
        try:
            return main(arguments)
        except KeyboardInterrupt:
            if debug:
                raise
            return _fail("interrupted", 130)
        except BrokenPipeError:
            # The reader of our output is gone (`caption … | head`): nobody is left to tell, and nothing is wrong.
            sys.stdout = None
            return 0
        except CaptionerError as error:
            if debug:
                raise
            return _fail(f"error: {error}", 2)
        except OSError as error:
            if debug:
                raise
            return _fail(f"error: {describe_os_error(error)}", 2)


def check_output(path: str) -> None:
    """Raise ConfigError for a file that could not be written, before the work that it is to hold is done."""
    if Path(path).is_dir():
        raise ConfigError(f"{path}: is a folder; name a file in it")
    if not Path(path).resolve().parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {Path(path).parent}; make it first")


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Show the package's log lines on standard error while a command runs, once where commands are nested."""
    logger = logging.getLogger("captioner")
    if logger.handlers:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def describe_os_error(error: OSError) -> str:
    """One line for an operating-system error, with the disk's name where the disk is full."""
    if error.errno in DISK_FULL:
        return f"no space left on the disk of {error.filename or _fullest_disk()}; free some space and try again"
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _fullest_disk() -> Path:
    # A failed write does not say which file it was for; the folders a command writes to are these.
    places = [Path.cwd(), Path(tempfile.gettempdir()), Path.home()]
    return min((place for place in places if place.exists()), key=lambda place: shutil.disk_usage(place).free)


def _fail(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
