"""Errors a user can act on: one line that says where, what was expected, what came, what to do."""

from __future__ import annotations


class ZooError(Exception):
    """Base of every error this project raises on purpose.

    The message has the form ``where: what is wrong; expected X, got Y. What to do.`` The command
    line prints it without a traceback and exits with ``exit_code``.
    """

    exit_code: int = 1


class InputError(ZooError):
    """Bad input from a user: an argument, a name, a file or an array of the wrong shape."""

    exit_code = 2


class SpecError(InputError):
    """A YAML document that does not describe what it should; names file, line and key path."""


class StackError(InputError):
    """A network that cannot be stacked into one population; names the layer."""


class StoreError(ZooError):
    """A stored zoo that is damaged, incomplete or of an unknown version."""


class Terminated(BaseException):
    """SIGTERM, raised where Ctrl-C would raise `KeyboardInterrupt`; like that, not an error."""

    exit_code: int = 143


class BuildError(ZooError):
    """A build that could not finish; what was committed before stays valid."""


class PublishError(ZooError):
    """A publication that could not be sent whole; the same command goes on where it stopped."""
