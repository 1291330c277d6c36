"""The command line as tests call it: `run_command("attack PGD --model", path, "--steps 3")`."""

import shlex

from typer.testing import CliRunner, Result

from jaxadv.cli import app


def arguments(*parts: object) -> list[str]:
    """The arguments of a command: texts are split as a shell does, paths and numbers are not."""
    return [
        word
        for part in parts
        for word in (shlex.split(part) if isinstance(part, str) else [str(part)])
    ]


def run_command(*parts: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, arguments(*parts))
