"""Random draws of tests that do not depend on which tests ran before."""

from typing import Any

import numpy as np
import pytest


def anew(generator: np.random.Generator) -> Any:
    """A fixture that sets the generator back, for every test of a file, to where it is now."""
    drawn = generator.bit_generator.state

    @pytest.fixture(autouse=True)
    def every_test_draws_anew() -> None:
        generator.bit_generator.state = drawn

    return every_test_draws_anew
