"""The public names: one list, all of it there, and nothing imported before it is used."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxadv as ja
from jaxadv import attacks
from jaxadv.core.attack import Attack


def test_every_attack_is_public_under_its_own_name() -> None:
    assert set(attacks.ATTACKS) <= set(ja.__all__)
    for name, kind in attacks.ATTACKS.items():
        assert kind.__name__ == name and getattr(ja, name) is kind


def test_every_public_name_is_there_and_listed() -> None:
    assert all(getattr(ja, name) is not None for name in ja.__all__)
    assert dir(ja) == ja.__all__ == sorted(set(ja.__all__))
    with pytest.raises(AttributeError, match="PDG"):
        _ = ja.PDG  # type: ignore[attr-defined]


def test_every_subpackage_but_the_command_line_is_an_attribute() -> None:
    folders = {module.name for module in pkgutil.iter_modules(ja.__path__) if module.ispkg}
    assert folders - {"cli"} <= set(ja.__all__)


def test_every_attack_in_the_package_is_registered() -> None:
    """An attack whose file is not imported is found by nobody."""
    public = {name for name in vars(attacks) if not name.startswith("_")}
    assert {base.__name__ for base in attacks.BASES} <= public
    pending, kinds = [Attack], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        kinds.add(kind)
    inside = {kind for kind in kinds if kind.__module__.startswith("jaxadv.attacks.")}
    alone = {kind for kind in inside if not kind.__subclasses__()}
    assert alone <= {*attacks.ATTACKS.values()}


def test_what_an_author_needs_is_public() -> None:
    assert {"pytree", "static", "testing", "Attack", "Problem", "Needs", "Answer"} <= set(
        ja.__all__
    )
    for base in ("Attack", "Iterate", "MinimumNorm", "GradientAttack"):
        assert base in attacks.__all__ and base not in attacks.ATTACKS


def test_import_waits_for_no_compiler() -> None:
    program = (
        "import sys, jaxadv; assert jaxadv.__version__; "
        "heavy = {'jax', 'numpy', 'flax', 'optax', 'scipy', 'typer'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_types_are_part_of_the_package() -> None:
    folder = Path(ja.__file__).parent
    assert (folder / "py.typed").is_file() and (folder / "__init__.pyi").is_file()
