"""The attacks: one file per algorithm or family. To import one here is to register it."""

# ruff: noqa: F401

from jaxadv.attacks.adversarial_patch import AdversarialPatch
from jaxadv.attacks.alma import ALMA
from jaxadv.attacks.apgd import APGD
from jaxadv.attacks.beyond import ReColorAdv, Spatial, StAdv, Wasserstein
from jaxadv.attacks.brendel_bethge import BrendelBethge
from jaxadv.attacks.build import build_attack
from jaxadv.attacks.cw import CW
from jaxadv.attacks.ddn import DDN
from jaxadv.attacks.deepfool import DeepFool
from jaxadv.attacks.diverse import Diverse
from jaxadv.attacks.each_target import EachTarget
from jaxadv.attacks.ead import EAD
from jaxadv.attacks.fab import FAB
from jaxadv.attacks.fgsm import FGM, FGSM
from jaxadv.attacks.fmn import FMN
from jaxadv.attacks.gradient import GradientAttack
from jaxadv.attacks.iterate import Iterate, MinimumNorm
from jaxadv.attacks.jsma import JSMA
from jaxadv.attacks.labels import (
    BlendedNoise,
    Boundary,
    GeoDA,
    HopSkipJump,
    Pointwise,
    SaltAndPepper,
    SignOPT,
)
from jaxadv.attacks.lbfgs import LBFGS
from jaxadv.attacks.masked import Masked
from jaxadv.attacks.minimal_epsilon import MinimalEpsilon
from jaxadv.attacks.newtonfool import NewtonFool
from jaxadv.attacks.noise import GaussianNoise, UniformNoise
from jaxadv.attacks.pdgd import PDGD
from jaxadv.attacks.pdpgd import PDPGD
from jaxadv.attacks.pgd import BIM, PGD
from jaxadv.attacks.repeated import Repeated
from jaxadv.attacks.scores import NES, SPSA, ZOO, OnePixel, SimBA, SparseRS, Square
from jaxadv.attacks.sigma_zero import SigmaZero
from jaxadv.attacks.sparsefool import SparseFool
from jaxadv.attacks.superdeepfool import SuperDeepFool
from jaxadv.attacks.transfer import (
    DIFGSM,
    ILA,
    MIFGSM,
    NIFGSM,
    SIFGSM,
    SINIFGSM,
    TIFGSM,
    VMIFGSM,
    VNIFGSM,
    Admix,
    Transfer,
)
from jaxadv.attacks.trust_region import TrustRegion
from jaxadv.attacks.vfga import FGA, VFGA
from jaxadv.core.attack import Attack

BASES = (Attack, GradientAttack, Iterate, MinimumNorm)  # what an attack of one's own begins from
ATTACKS: dict[str, type[Attack]] = {  # all that are imported above
    name: kind
    for name, kind in sorted(globals().items())
    if isinstance(kind, type) and issubclass(kind, Attack) and kind not in BASES
}


def list_attacks() -> list[str]:
    """The names of all attacks.

    >>> import jaxadv as ja
    >>> "PGD" in ja.list_attacks()
    True
    """
    return sorted(ATTACKS)


__all__ = [*ATTACKS, "ATTACKS", *(base.__name__ for base in BASES), "build_attack", "list_attacks"]
