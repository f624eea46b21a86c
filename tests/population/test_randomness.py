from __future__ import annotations

import hashlib

import pytest
import torch

from zookeeper.population.randomness import DropoutStream, epoch_orders, hash_counters, mix, stream_keys, uniform_floats

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix_integer(x: int) -> int:
    """The finaliser of SplitMix64 on Python integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def hash_integer(seed: int, purpose: str, counter: int, element: int) -> int:
    key = int.from_bytes(hashlib.sha256(f"{purpose}:{seed}".encode()).digest()[:8], "little")
    return mix_integer((mix_integer((key + counter * GOLDEN) & WORD) + (element + 1) * GOLDEN) & WORD)


@pytest.mark.parametrize(("seed", "counter"), [(0, 0), (7, 1), (-3, 12), (10**30, 2**40)])
def test_hash_equals_integer_arithmetic(seed: int, counter: int) -> None:
    words = hash_counters(stream_keys([seed], "order"), counter, 50)[0]
    expected = [hash_integer(seed, "order", counter, element) for element in range(50)]
    assert [word & WORD for word in words.tolist()] == expected


def test_splitmix64_reference_values() -> None:
    """First outputs of SplitMix64 seeded with 1234567, as published with the xoshiro generators."""
    states = [(1234567 + step * GOLDEN) & WORD for step in (1, 2, 3, 4, 5)]
    signed = torch.tensor([state - (1 << 64) if state >> 63 else state for state in states])
    assert [word & WORD for word in mix(signed).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


ORDERS = [[4, 3, 7, 6, 2, 0, 8, 5, 1, 9], [3, 1, 7, 6, 9, 0, 2, 4, 8, 5], [5, 3, 8, 9, 2, 4, 1, 7, 0, 6]]
SECOND_EPOCH = [4, 5, 9, 3, 8, 2, 1, 7, 6, 0]


def test_known_orders() -> None:
    """Stored zoos can be continued only while these numbers stay."""
    orders = epoch_orders(stream_keys([0, 1, 20], "order"), 1, 10)
    assert orders.tolist() == ORDERS
    assert epoch_orders(stream_keys([0], "order"), 2, 10).tolist() == [SECOND_EPOCH]


def test_orders_are_permutations() -> None:
    orders = epoch_orders(stream_keys(range(40), "order"), 3, 257)
    assert orders.dtype == torch.int64
    assert torch.equal(orders.sort(1).values, torch.arange(257).expand(40, -1))
    assert len(torch.unique(orders, dim=0)) == 40


def test_orders_depend_on_seed_and_epoch_alone() -> None:
    keys = stream_keys([3, 8, 3, 5], "order")
    orders = epoch_orders(keys, 2, 100)
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(epoch_orders(keys[1:2], 2, 100)[0], orders[1])
    assert torch.equal(epoch_orders(keys.flip(0), 2, 100), orders.flip(0))
    assert not torch.equal(epoch_orders(keys, 3, 100)[0], orders[0])
    other = stream_keys([3], "dropout")
    assert other[0] != keys[0]


def test_orders_are_uniform() -> None:
    """Every image is equally likely at every position, and at neighbouring ones."""
    orders = epoch_orders(stream_keys(range(6000), "order"), 1, 6)
    counts = torch.stack([torch.bincount(orders[:, place], minlength=6) for place in range(6)])
    assert (counts - 1000).abs().max() < 150
    pairs = torch.bincount(orders[:, 0] * 6 + orders[:, 1], minlength=36)
    assert (pairs[pairs > 0] - 200).abs().max() < 75
    assert (pairs > 0).sum() == 30


def test_uniform_floats_are_uniform() -> None:
    draws = uniform_floats(stream_keys([1, 2, 3, 4], "dropout"), 5, 50_000)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert torch.equal(draws * 2**24, (draws * 2**24).round())
    for row in draws.double():
        assert row.mean().item() == pytest.approx(1 / 2, abs=0.006)
        assert row.var().item() == pytest.approx(1 / 12, abs=0.002)
        assert (row**4).mean().item() == pytest.approx(1 / 5, abs=0.006)
        assert abs(torch.corrcoef(torch.stack([row[1:], row[:-1]]))[0, 1].item()) < 0.02
    between = torch.corrcoef(draws.double()) - torch.eye(4)
    assert between.abs().max() < 0.02
    later = uniform_floats(stream_keys([1], "dropout"), 6, 50_000).double()
    assert abs(torch.corrcoef(torch.stack([later[0], draws[0].double()]))[0, 1].item()) < 0.02


def test_a_prefix_of_a_stream_is_the_same_stream() -> None:
    keys = stream_keys([9], "dropout")
    assert torch.equal(uniform_floats(keys, 4, 100)[:, :30], uniform_floats(keys, 4, 30))


def test_masks_have_their_probability_and_scale() -> None:
    probabilities = torch.tensor([0.0, 0.1, 0.5, 0.9])
    masks = DropoutStream(stream_keys([1, 2, 3, 4], "dropout"), 7, probabilities).mask(3, 40, (8, 5, 5), torch.float64)
    assert masks.shape == (4, 40, 8, 5, 5)
    for mask, p in zip(masks, probabilities.tolist(), strict=True):
        kept = mask > 0
        assert kept.double().mean().item() == pytest.approx(1 - p, abs=0.02)
        torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - p)), rtol=1e-6, atol=0)
    assert (masks[0] == 1).all()


def test_masks_do_not_depend_on_neighbours() -> None:
    keys, p = stream_keys([1, 2, 3], "dropout"), torch.tensor([0.5, 0.3, 0.5])
    together = DropoutStream(keys, 7, p).mask(3, 11, (4, 2), torch.float32)
    for m in (2, 0, 1):
        alone = DropoutStream(keys[m : m + 1], 7, p[m : m + 1]).mask(3, 11, (4, 2), torch.float32)
        assert torch.equal(alone[0], together[m])
    assert not torch.equal(together[0], together[2])


def test_masks_differ_between_steps_and_places() -> None:
    keys, p = stream_keys([1], "dropout"), torch.tensor([0.5])
    masks = [DropoutStream(keys, step, p).mask(place, 8, (30,), torch.float32) for step in (1, 2) for place in (4, 5)]
    flat = torch.stack([mask.flatten() for mask in masks])
    assert (torch.corrcoef(flat) - torch.eye(4)).abs().max() < 0.25
