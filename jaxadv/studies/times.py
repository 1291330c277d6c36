"""Roughly how long an experiment takes, from quick runs that were timed on two cores."""

from jaxadv.studies.setting import Setting

TIMED = (2, 100)  # seeds and examples of the runs that were timed, with --quick
SECONDS: dict[str, int] = {  # of each such run, its networks trained in it or in one before it
    "szegedy.distortion": 107,
    "szegedy.transfer": 25,
    "szegedy.halves": 40,
    "szegedy.noise": 171,
    "szegedy.units": 157,
    "szegedy.layers": 47,
    "szegedy.pool": 392,  # beside other work
    "szegedy.rarity": 73,
    "szegedy.causes": 91,
    "classifiers.distance": 156,
    "classifiers.topics": 13,
    "fooling.images": 57,
    "transfer.spam": 54,
    "survival": 145,
    "streams": 30,
}


def expected(name: str, setting: Setting) -> str:
    """Say roughly how long an experiment takes, before it begins.

    Args:
        name: Name of the experiment.
        setting: Its setting; the time grows with its networks and images.

    Returns:
        The words; of an experiment that was not timed, how long the others take.

    Example:
        >>> from pathlib import Path
        >>> from jaxadv.data import load_data
        >>> from jaxadv.studies.times import SECONDS, expected
        >>> digits = load_data("digits", "test")
        >>> setting = Setting(digits, digits, Path(), seeds=2, examples=100, quick=True)
        >>> expected("survival", setting)
        'about 2 minutes on two cores'
    """
    if name not in SECONDS or setting.networks:
        low, high = (duration(pick(SECONDS.values())) for pick in (min, max))
        what = "not timed with these networks" if setting.networks else "not timed"
        return f"{what}; quick runs of other experiments take from {low} to {high} on two cores"
    seeds, examples = TIMED
    times = setting.seeds * setting.examples / (seeds * examples)
    if setting.quick:
        return f"about {duration(SECONDS[name] * times)} on two cores"
    return (
        f"at least {duration(SECONDS[name] * max(times, 1))} on two cores ({times:.3g} times the "
        "networks and images of a quick run, trained longer and attacked harder)"
    )


def duration(seconds: float) -> str:
    """Return a duration in words, rounded to minutes, or to hours from two hours on."""
    if seconds < 90:
        return "a minute"
    if seconds < 7200:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.0f} hours"
