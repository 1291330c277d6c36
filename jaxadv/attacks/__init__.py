"""The attacks: one file per algorithm or family. To import one here is to register it."""

# ruff: noqa: F401

from jaxadv.attacks.common.build import build_attack
from jaxadv.attacks.common.gradient import GradientAttack, steepest_ascent
from jaxadv.attacks.common.gradient_iteration import Iterate, MinimumNorm
from jaxadv.attacks.common.registry import ATTACKS
from jaxadv.attacks.decision_based.boundary import Boundary
from jaxadv.attacks.decision_based.geoda import GeoDA
from jaxadv.attacks.decision_based.hopskipjump import HopSkipJump
from jaxadv.attacks.decision_based.noises import BlendedNoise, SaltAndPepper
from jaxadv.attacks.decision_based.pointwise import Pointwise
from jaxadv.attacks.decision_based.sign_opt import SignOPT
from jaxadv.attacks.gradient_based.acg import ACG
from jaxadv.attacks.gradient_based.apgd import APGD
from jaxadv.attacks.gradient_based.diverse import Diverse
from jaxadv.attacks.gradient_based.fgsm import FGM, FGSM
from jaxadv.attacks.gradient_based.pgd import BIM, PGD
from jaxadv.attacks.gradient_based.sparse_pgd import SparsePGD
from jaxadv.attacks.minimum_norm.alma import ALMA
from jaxadv.attacks.minimum_norm.brendel_bethge import BrendelBethge
from jaxadv.attacks.minimum_norm.cw import CW
from jaxadv.attacks.minimum_norm.ddn import DDN
from jaxadv.attacks.minimum_norm.deepfool import DeepFool
from jaxadv.attacks.minimum_norm.ead import EAD
from jaxadv.attacks.minimum_norm.fab import FAB
from jaxadv.attacks.minimum_norm.fmn import FMN
from jaxadv.attacks.minimum_norm.jsma import JSMA
from jaxadv.attacks.minimum_norm.lbfgs import LBFGS
from jaxadv.attacks.minimum_norm.newtonfool import NewtonFool
from jaxadv.attacks.minimum_norm.pdgd import PDGD
from jaxadv.attacks.minimum_norm.pdpgd import PDPGD
from jaxadv.attacks.minimum_norm.sigma_zero import SigmaZero
from jaxadv.attacks.minimum_norm.sparsefool import SparseFool
from jaxadv.attacks.minimum_norm.superdeepfool import SuperDeepFool
from jaxadv.attacks.minimum_norm.trust_region import TrustRegion
from jaxadv.attacks.minimum_norm.vfga import FGA, VFGA
from jaxadv.attacks.noise import GaussianNoise, UniformNoise
from jaxadv.attacks.non_lp.adversarial_patch import AdversarialPatch
from jaxadv.attacks.non_lp.recoloradv import ReColorAdv
from jaxadv.attacks.non_lp.spatial import Spatial
from jaxadv.attacks.non_lp.stadv import StAdv
from jaxadv.attacks.non_lp.wasserstein import Wasserstein
from jaxadv.attacks.score_based.nes import NES, SPSA
from jaxadv.attacks.score_based.one_pixel import OnePixel
from jaxadv.attacks.score_based.simba import SimBA
from jaxadv.attacks.score_based.sparse_rs import SparseRS
from jaxadv.attacks.score_based.square import Square
from jaxadv.attacks.score_based.zoo import ZOO
from jaxadv.attacks.transfer.ila import ILA
from jaxadv.attacks.transfer.named import (
    DIFGSM,
    MIFGSM,
    NIFGSM,
    SIFGSM,
    SINIFGSM,
    TIFGSM,
    VMIFGSM,
    VNIFGSM,
    Admix,
)
from jaxadv.attacks.transfer.transfer import Transfer
from jaxadv.attacks.wrappers.each_target import EachTarget
from jaxadv.attacks.wrappers.masked import Masked
from jaxadv.attacks.wrappers.minimal_epsilon import MinimalEpsilon
from jaxadv.attacks.wrappers.repeated import Repeated
from jaxadv.core.attack import Attack

BASES = (Attack, GradientAttack, Iterate, MinimumNorm)  # what an attack of one's own begins from
ATTACKS |= {  # all that are imported above
    name: kind
    for name, kind in sorted(globals().items())
    if isinstance(kind, type) and issubclass(kind, Attack) and kind not in BASES
}


def list_attacks() -> list[str]:
    """Return the names of all attacks, sorted.

    Returns:
        The names, as `jaxadv attack` and sweep files take them.

    Example:
        >>> import jaxadv as ja
        >>> "PGD" in ja.list_attacks()
        True
    """
    return sorted(ATTACKS)


__all__ = [
    *ATTACKS,
    "ATTACKS",
    *(base.__name__ for base in BASES),
    "build_attack",
    "list_attacks",
    "steepest_ascent",
]
