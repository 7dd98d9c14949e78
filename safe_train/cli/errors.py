"""Commands whose every error is one line, usage errors included: what is wrong, the nearest known name, exit code 2."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from typing import NoReturn, ParamSpec

import click

from safe_train.cli.streams import outliving_readers
from safe_train.distributed.launch import find_launch
from safe_train.errors import InputError, NonFiniteLossError, PeerRankError, ProcessLostError, StoppedError, nearest

EXIT_INPUT = 2
EXIT_FAILED = 1
EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped by the scheduler, resume me
EXIT_INTERRUPTED = 130  # 128 + SIGINT
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}

_Arguments = ParamSpec("_Arguments")


class OneLineCommand(click.Command):
    """A command that names the nearest option when one is unknown, in place of click's usage text."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses as click does; a usage error ends the program."""
        if not args and self.no_args_is_help:
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [
                name for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts)
            ]
            options = [name for name in known if name.startswith("-")]
            fail(unknown(f"{ctx.command_path} {error.option_name}", "an option", error.option_name, options))
        except click.UsageError as error:
            message = " ".join(error.format_message().split()).removesuffix(".")
            exit_with(f"{ctx.command_path}: {message}; see {ctx.command_path} --help", EXIT_INPUT)


class OneLineGroup(OneLineCommand, click.Group):
    """A group of such commands that names the nearest one when a command is unknown."""

    command_class = OneLineCommand
    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolves as click does; an unknown command ends the program."""
        if args and self.get_command(ctx, args[0]) is None:
            shown = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
            fail(unknown(f"{ctx.command_path} {args[0]}", "a command", args[0], shown))
        return super().resolve_command(ctx, args)


def unknown(where: str, kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones."""
    names, noun = list(known), kind.partition(" ")[2]
    suggestion = nearest(name, names)
    return InputError(
        where, kind, f"no such {noun}", f"did you mean {suggestion!r}?" if suggestion else _list_known(names)
    )


def fail(error: InputError) -> NoReturn:
    """Ends the program as bad input does."""
    exit_with(str(error), EXIT_INPUT)


def exit_with(line: str, code: int) -> NoReturn:
    """Ends the program with one line on standard error."""
    click.echo(f"error: {line}", err=True)
    leave(code)


def leave(code: int) -> NoReturn:
    """Ends the program after an error.

    A process group whose others have ended or wait elsewhere is left as it is, not closed. Its threads must then not be
    taken down with the interpreter, which aborts now and then: the exit code would be that of SIGABRT.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def one_line_errors(command: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Ends the program with one line where the command raises an error that a person can mend."""

    @wraps(command)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            with outliving_readers():
                command(*args, **kwargs)
        except InputError as error:
            fail(error)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            place = error.filename or "output folder"
            fail(InputError(place, "room to write", str(error.strerror), "make room, or choose another --output-root"))
        except (NonFiniteLossError, ProcessLostError) as error:
            exit_with(str(error), EXIT_FAILED)
        except PeerRankError as error:
            leave(EXIT_INPUT if error.is_input else EXIT_FAILED)
        except StoppedError as error:
            if find_launch().is_main:
                click.echo(f"\n{error}", err=True)
            leave(EXIT_INTERRUPTED if error.signal is signal.SIGINT else EXIT_REQUEUE)
        except KeyboardInterrupt:  # also during imports, where click would say "Aborted!" and leave with 1
            exit_with("interrupted", EXIT_INTERRUPTED)

    return guarded


def _list_known(names: list[str]) -> str:
    return f"known are {', '.join(names)}"
