"""Objects in a user's Python code, by the text that names them, such as "net.py:robust"."""

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

_OBJECT = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def names_object(text: str) -> bool:
    """Return whether a text has the form "file.py:name" or "package.module:name"."""
    return _OBJECT.fullmatch(text) is not None


def load_object(text: str) -> object:
    """Return an object of a Python file or module. The file is run, as `python file.py` would.

    Args:
        text: "file.py:name", or "package.module:name" for an installed module.

    Returns:
        The object of that name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the text has another form, the file or module cannot be run, or it has no
            such name.

    Example:
        >>> from jaxadv.core.python_objects import load_object
        >>> load_object("math:pi")
        3.141592653589793
    """
    match = _OBJECT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} names no object: pass file.py:name or package.module:name")
    place, name = match["place"], match["name"]
    module = _run_file(Path(place).expanduser()) if place.endswith(".py") else _import(place)
    if not hasattr(module, name):
        there = [
            own
            for own, value in vars(module).items()
            if not own.startswith("_") and not isinstance(value, ModuleType)
        ]
        raise ValueError(f"{place} has no {name!r}: pass one of {', '.join(there) or 'its names'}")
    return getattr(module, name)


def called(value: object, *arguments: object) -> object:
    """Return what a function of one's own returns, or the value itself if it is no function.

    Args:
        value: A function or another object.
        *arguments: What it is given, as many of them as it takes.

    Returns:
        The result of the call, or the value.

    Raises:
        ValueError: If the function fails.
    """
    if not inspect.isfunction(value):
        return value
    try:
        return value(*arguments[: len(inspect.signature(value).parameters)])
    except Exception as error:
        file = value.__code__.co_filename
        raise ValueError(f"{Path(file).name} {_failed(error, file)}") from error


def takes_nothing(function: object) -> bool:
    """Return whether a function of one's own can be called without arguments."""
    return inspect.isfunction(function) and not any(
        one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        for one in inspect.signature(function).parameters.values()
    )


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass file.py:name")
    path = path.resolve()
    if str(path) in sys.modules:  # run once in a process, so that its classes stay the same
        return sys.modules[str(path)]
    spec = importlib.util.spec_from_file_location(str(path), path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be run: pass a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[str(path)] = module  # as dataclasses and pickling expect of a class's module
    sys.path.insert(0, str(path.parent))  # for the modules beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[str(path)]
        raise ValueError(f"{path.name} {_failed(error, str(path))}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise ValueError(f"{name} {_failed(error)}") from error
        raise ValueError(
            f"there is no module {name!r}: pass package.module:name of an installed one, or "
            "file.py:name"
        ) from None
    except Exception as error:
        raise ValueError(f"{name} {_failed(error)}") from error


def _failed(error: Exception, file: str = "") -> str:
    """Return what went wrong while a module was run, and on which line of its file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [one.lineno for one in frames if one.filename == file]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    where = f" on line {lines[-1]}" if lines else ""
    return f"fails{where} ({type(error).__name__}: {error}): mend it, and try it with python"
