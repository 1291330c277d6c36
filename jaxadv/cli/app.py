"""The Typer application: its version, and how it ends on errors and on Ctrl-C."""

import sys
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended


class _OneLine(TyperGroup):
    """Print an error as one line and exit with 2; after Ctrl-C say how to go on, exit with 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except (ValueError, ImportError, OSError, NotImplementedError) as error:
            sys.exit(fail(str(error) or type(error).__name__))
        except Exception as error:
            message = getattr(error, "format_message", None)  # usage errors of Typer have it
            if message is None:
                raise
            sys.exit(fail(message()))
        if code == INTERRUPTED:
            say("interrupted: what was saved is kept, the same command goes on from there")
        sys.exit(code or 0)


def fail(message: str) -> int:
    say(f"error: {' '.join(message.split())}")
    return 2


def say(text: str) -> None:
    print(text, file=sys.stderr)


app = typer.Typer(
    cls=_OneLine,
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print("jaxadv", metadata.version("jaxadv"))
        except metadata.PackageNotFoundError:  # a checkout that is not installed
            import jaxadv

            print("jaxadv", jaxadv.__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Measure how robust image classifiers are to adversarial attacks, with verified results."""
    if context.invoked_subcommand is None:
        print(context.get_help())
