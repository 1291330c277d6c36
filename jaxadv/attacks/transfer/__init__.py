"""Transfer attacks: made on a surrogate network to fool another one."""

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

__all__ = [
    "DIFGSM",
    "ILA",
    "MIFGSM",
    "NIFGSM",
    "SIFGSM",
    "SINIFGSM",
    "TIFGSM",
    "VMIFGSM",
    "VNIFGSM",
    "Admix",
    "Transfer",
]
