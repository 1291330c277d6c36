"""The attacks: one file per algorithm or family."""

from jaxadv.attacks.apgd import APGD
from jaxadv.attacks.deepfool import DeepFool
from jaxadv.attacks.diverse import Diverse
from jaxadv.attacks.fab import FAB
from jaxadv.attacks.fgsm import FGM, FGSM
from jaxadv.attacks.lbfgs import LBFGS
from jaxadv.attacks.mifgsm import MIFGSM
from jaxadv.attacks.minimal_epsilon import MinimalEpsilon
from jaxadv.attacks.newtonfool import NewtonFool
from jaxadv.attacks.noise import GaussianNoise, UniformNoise
from jaxadv.attacks.pgd import BIM, PGD
from jaxadv.attacks.sparsefool import SparseFool
from jaxadv.attacks.square import Square
from jaxadv.attacks.superdeepfool import SuperDeepFool
from jaxadv.attacks.trust_region import TrustRegion
from jaxadv.core.attack import Attack

ATTACKS: dict[str, type[Attack]] = {
    attack.__name__: attack
    for attack in (
        APGD,
        BIM,
        DeepFool,
        Diverse,
        FAB,
        FGM,
        FGSM,
        GaussianNoise,
        LBFGS,
        MIFGSM,
        MinimalEpsilon,
        NewtonFool,
        PGD,
        SparseFool,
        Square,
        SuperDeepFool,
        TrustRegion,
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
