"""How many lanes fit the memory: what the compiler plans, not what every value would take."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import jaxadv as ja
from jaxadv.engine.devices import choose_lanes, compiled_bytes, spare_memory_maps

SHAPE = (32, 32, 1)
LAYERS, WIDTH = 20, 1000


def fused(scale, images):
    values = images.reshape(len(images), -1)
    for _ in range(60):
        values = 0.9 * jnp.tanh(scale * values)
    return values[:, :10]


def deep(weights, images):
    values = images.reshape(len(images), -1)[:, :WIDTH]
    for _ in range(LAYERS):
        values = jnp.sin(values @ weights)  # its derivative takes what went in
    return values[:, :10]


def device(memory):
    return SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": memory})


def test_what_the_compiler_fuses_takes_no_memory():
    model = ja.Model(fused, jnp.float32(1))
    every_value = 60 * 3 * 32 * 32 * 4
    memory = 4 * 1024 * every_value // 3
    assert choose_lanes(model, 1, SHAPE, 1024, device(memory)) == 1024


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("megabytes", [1, 16, 64])
def test_what_a_backward_pass_has_to_hold_fits(queries, megabytes):
    model = ja.Model(deep, jnp.eye(WIDTH))
    room = megabytes * 10**6  # a quarter of the memory is for a pass
    lanes = choose_lanes(model, queries, SHAPE, 1024, device(4 * room))
    held = LAYERS * WIDTH * 4 * queries
    assert lanes == 1 or lanes * held <= room
    assert 2 * lanes * held * 8 > room  # and no small part of it


def test_a_model_without_a_gradient_has_a_size_too():
    asked = ja.from_function(lambda x: x.reshape(len(x), -1)[:, :10], differentiable=False)
    assert compiled_bytes(asked, 7, SHAPE) >= 7 * 10 * 4
    assert choose_lanes(asked, 1, SHAPE, 64, device(10**4)) >= 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells of its maps")
def test_programs_give_their_memory_maps_back():
    def used() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    spare_memory_maps(0.0)
    before = used()
    programs = [jax.jit(lambda x, n=n: jnp.sort(jnp.sin(x) ** n)) for n in range(30)]
    for program in programs:
        program(jnp.arange(100.0))
    full = used()
    assert full > before + len(programs)  # more than one each
    assert not spare_memory_maps(1.0)
    assert spare_memory_maps(0.0)
    assert used() < (before + full) / 2
