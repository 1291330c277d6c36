"""The attacks: one file per algorithm or family."""

from jaxadv.attacks.apgd import APGD
from jaxadv.attacks.brendel_bethge import BrendelBethge
from jaxadv.attacks.diverse import Diverse
from jaxadv.attacks.fab import FAB
from jaxadv.attacks.fgsm import FGM, FGSM
from jaxadv.attacks.lbfgs import LBFGS
from jaxadv.attacks.mifgsm import MIFGSM
from jaxadv.attacks.minimal_epsilon import MinimalEpsilon
from jaxadv.attacks.noise import GaussianNoise, UniformNoise
from jaxadv.attacks.pgd import BIM, PGD
from jaxadv.attacks.square import Square
from jaxadv.core.attack import Attack

ATTACKS: dict[str, type[Attack]] = {
    attack.__name__: attack
    for attack in (
        APGD,
        BIM,
        BrendelBethge,
        Diverse,
        FAB,
        FGM,
        FGSM,
        GaussianNoise,
        LBFGS,
        MIFGSM,
        MinimalEpsilon,
        PGD,
        Square,
        UniformNoise,
    )
}


def list_attacks() -> list[str]:
    """The names of all attacks.

    >>> import jaxadv as ja
    >>> "PGD" in ja.list_attacks()
    True
    """
    return sorted(ATTACKS)


__all__ = [*ATTACKS, "ATTACKS", "list_attacks"]
