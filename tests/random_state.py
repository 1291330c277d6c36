"""Random draws of tests that are the same whichever tests ran before."""

from typing import Any

import numpy as np
import pytest


def restored(generator: np.random.Generator) -> Any:
    """A fixture that restores, before each test of a file, the state that the generator has now."""
    state = generator.bit_generator.state

    @pytest.fixture(autouse=True)
    def restored_before_each_test() -> None:
        generator.bit_generator.state = state

    return restored_before_each_test
