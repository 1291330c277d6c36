"""The attacks: one file per algorithm or family."""

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

ATTACKS: dict[str, type[Attack]] = {
    attack.__name__: attack
    for attack in (
        AdversarialPatch,
        Admix,
        ALMA,
        APGD,
        BIM,
        BlendedNoise,
        Boundary,
        BrendelBethge,
        CW,
        DDN,
        DeepFool,
        DIFGSM,
        Diverse,
        EachTarget,
        EAD,
        FAB,
        FGA,
        FGM,
        FGSM,
        FMN,
        GaussianNoise,
        GeoDA,
        HopSkipJump,
        ILA,
        JSMA,
        LBFGS,
        Masked,
        MIFGSM,
        MinimalEpsilon,
        NES,
        NewtonFool,
        NIFGSM,
        OnePixel,
        PDGD,
        PDPGD,
        PGD,
        Pointwise,
        ReColorAdv,
        Repeated,
        SaltAndPepper,
        SIFGSM,
        SigmaZero,
        SignOPT,
        SINIFGSM,
        SPSA,
        SimBA,
        SparseFool,
        SparseRS,
        Spatial,
        Square,
        StAdv,
        SuperDeepFool,
        TIFGSM,
        Transfer,
        TrustRegion,
        UniformNoise,
        VFGA,
        VMIFGSM,
        VNIFGSM,
        Wasserstein,
        ZOO,
    )
}


def list_attacks() -> list[str]:
    """The names of all attacks.

    >>> import jaxadv as ja
    >>> "PGD" in ja.list_attacks()
    True
    """
    return sorted(ATTACKS)


__all__ = [*ATTACKS, "ATTACKS", "build_attack", "list_attacks"]
