"""Checks by attack: is the stronger attack stronger, and are its results confirmed?"""

import numpy as np

from jaxadv.core.bounds import Bounds
from jaxadv.core.result import Result, Status
from jaxadv.engine.diagnose.finding import FEW, Finding, verdict

RISING = 0.05  # fraction of the rise of the loss so far (Pintor et al. 2022)
CLEARLY = 0.05  # fraction of images: PGD on one loss may miss a few of Square's on sound models


def enough_steps(now: Result, longer: Result, clean_margin: np.ndarray, steps: int) -> Finding:
    """Check whether twice the steps break more images or raise the loss of the others much."""
    more = int((longer.success & ~now.success).sum())
    left = ~now.success & ~longer.success & np.isfinite(now.margin + longer.margin)
    risen = float(np.clip(clean_margin - now.margin, 0, None)[left].sum())
    rising = float((now.margin - longer.margin)[left].sum())
    message = ""
    if more > max(FEW * len(now.success), 1):  # one image of a few says nothing
        message = f"{2 * steps} steps break {more} more of {len(now.success)} images than {steps}: "
        message += "pass more steps"
    elif rising > RISING * risen and left.mean() > FEW:
        message = f"{2 * steps} steps raise the loss of the {left.sum()} images that withstand "
        message += f"{100 * rising / max(risen, 1e-30):.0f} % further than {steps}: pass more steps"
    return verdict("enough steps", message)


def monotone(broken: np.ndarray, radii: list[float]) -> Finding:
    """Check whether images broken [E, N] at an epsilon are broken at every larger one."""
    for small in range(len(broken)):
        for large in range(small + 1, len(broken)):
            lost = int((broken[small] & ~broken[large]).sum())
            if lost > FEW * broken.shape[1]:
                return verdict(
                    "larger epsilon, more success",
                    f"{lost} of {broken.shape[1]} images fall at epsilon {radii[small]:g} but not "
                    f"at {radii[large]:g}: gradients mislead; pass more restarts, another loss or "
                    "attacks without gradients",
                )
    return verdict("larger epsilon, more success", "")


def order(weaker: dict[str, np.ndarray], strongest: np.ndarray) -> Finding:
    """Check whether PGD [N] breaks the images that noise and a single step break."""
    for name, broken in weaker.items():
        lost = int((broken & ~strongest).sum())
        if lost > FEW * len(strongest):
            return verdict(
                "weaker attacks are weaker",
                f"{name} breaks {lost} of {len(strongest)} images that PGD does not: gradients "
                "mislead (masking); pass another loss or attacks without gradients",
            )
    return verdict("weaker attacks are weaker", "")


def asking(square: Result, now: Result, longer: Result, queries: int) -> Finding:
    """Check whether Square, which uses no gradient, breaks clearly more images than PGD.

    Square gets as many queries as PGD's two runs take forward and backward passes (after the flags
    of AutoAttack, Croce et al. 2022).

    Args:
        square: Result of Square.
        now: Result of PGD.
        longer: Result of PGD with twice the steps.
        queries: Queries of Square for each image.

    Returns:
        The finding, which fails if Square breaks more than `CLEARLY` of the images beyond PGD.
    """
    by_asking, by_gradient = int(square.success.sum()), int((now.success | longer.success).sum())
    return verdict(
        "gradients find what queries find",
        f"Square breaks {by_asking} of {len(square.success)} images with {queries} queries and no "
        f"gradient, PGD only {by_gradient} with as many passes: gradients mislead (masking); pass "
        "another loss or attacks without gradients"
        if by_asking - by_gradient > CLEARLY * len(square.success)
        else "",
    )


def unbounded(broken: np.ndarray, norm: str, whole: float) -> Finding:
    """Check whether PGD breaks every image [N] if the ball is the whole box."""
    left = int((~broken).sum())
    return verdict(
        "no image withstands any change",
        f"{left} of {len(broken)} images withstand PGD in the whole box ({norm} {whole:g}), where "
        "every image may become any other: gradients are masked, or the model ignores its input"
        if left > FEW * len(broken)
        else "",
    )


def to_8_bits(images: np.ndarray, bounds: Bounds) -> np.ndarray:
    """Round the images to the values of an 8-bit file."""
    lower, upper = bounds
    bits = np.round((images - lower) / (upper - lower) * 255) / 255
    return (bits * (upper - lower) + lower).astype(np.float32)


def rounding(success: np.ndarray, rounded_margin: np.ndarray) -> Finding:
    """Check whether adversarial images are still adversarial after rounding to 8 bits."""
    lost = int((success & ~(rounded_margin < 0)).sum())
    before, after = 1 - success.mean(), 1 - (success.sum() - lost) / len(success)
    return verdict(
        "8 bits",
        f"{lost} of {success.sum()} adversarial images are none after rounding to 8 bits: robust "
        f"accuracy (of correctly classified images) {100 * before:.1f} %, rounded "
        f"{100 * after:.1f} %; round in the attack if images are stored so"
        if lost > max(FEW * len(success), 1)
        else "",
    )


def verified(results: list[Result]) -> Finding:
    """Check whether verification confirmed the claimed successes, and all numbers were finite."""
    status = np.concatenate([result.status for result in results])
    rejected = (Status.REJECTED_LABEL, Status.REJECTED_DISTANCE, Status.REJECTED_BOX)
    claimed = status[np.isin(status, (Status.SUCCESS, *rejected))]
    refused = claimed[claimed != Status.SUCCESS]
    broken = int((status == Status.NONFINITE).sum())
    messages = []
    if len(refused) > FEW * len(claimed):
        names, counts = np.unique(refused, return_counts=True)
        why = ", ".join(f"{n} {Status(s).name}" for s, n in zip(names, counts, strict=True))
        messages.append(
            f"{len(refused)} of {len(claimed)} images that attacks found were refused when judged "
            f"anew ({why}) and are not counted: answers depend on the batch or on chance"
        )
    if broken:
        messages.append(
            f"{broken} of {len(status)} attacks met NaN or infinities in the ball and found "
            "nothing: look for a division, log or sqrt at 0, or an overflow"
        )
    return verdict("verified", "; ".join(messages))


def reject_class(labels: np.ndarray, logits: np.ndarray) -> Finding:
    """Check whether most adversarial images, with logits [n, K], get a class that is no label."""
    message = ""
    named, classes, predictions = np.unique(labels), logits.shape[1], logits.argmax(1)
    if len(predictions) and len(named) >= min(classes - 1, 3):
        votes = np.bincount(predictions, minlength=classes)
        most = int(votes.argmax())
        if most in (0, classes - 1) and most not in named and votes[most] > len(predictions) / 2:
            message = (
                f"{votes[most]} of {len(predictions)} adversarial images are assigned to class "
            )
            message += f"{most}, which is no image's label: if it means 'rejected', they are "
            message += "detected, not missed, yet count as broken; pass ja.Evading(labels, "
            message += f"rejected={most}) to count those that are missed"
    return verdict("no class for refusals", message)
