"""Philox against the Random123 library's known answers, and dropout masks against the words of docs/architecture.md."""

import numpy as np
import pytest

from tricnn.ir.numpy_ops import keep_mask, parallel, philox_4x32


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # examples/kat_vectors of Random123, "philox4x32 10"
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter, key, expected):
    counter, key, expected = ([int(word, 16) for word in text.split()] for text in (counter, key, expected))
    assert [int(word) for word in philox_4x32(*counter, *key)] == expected


def philox_by_hand(counter, key):
    """Salmon et al. 2011, section 3.3, in Python's integers."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        x, y = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (y >> 32) ^ b ^ k0, y & 0xFFFFFFFF, (x >> 32) ^ d ^ k1, x & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4, 5)])
def test_mask_is_what_the_architecture_says(shape):
    p, seed, layer, step = 0.3, 0x123456789ABCDEF0, 4, 17
    mask = keep_mask(shape, p=p, seed=seed, layer=layer, step=step)
    key = (seed & 0xFFFFFFFF, seed >> 32)
    for element, keep in enumerate(mask.reshape(-1)):  # logical order
        assert keep == (philox_by_hand((element, layer, step, 0), key)[0] >= round(p * 2**32))


def test_four_dimensional_masks_are_channels_last():
    attrs = dict(p=0.5, seed=1, layer=2, step=3)
    mask = keep_mask((2, 3, 4, 5), **attrs)
    assert mask.dtype == bool and mask.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(mask.reshape(2, 60), keep_mask((2, 60), **attrs))


def test_nothing_is_dropped_at_0_and_all_at_1():
    attrs = dict(seed=0, layer=0, step=0)
    assert keep_mask((50, 50), p=0.0, **attrs).all()
    assert not keep_mask((50, 50), p=1.0, **attrs).any()


def test_share_kept_and_independence_of_layer_step_and_seed():
    attrs = dict(p=0.25, seed=5, layer=1, step=0)
    n = 200_000
    mask = keep_mask((n,), **attrs)
    five_sigma = 5 * np.sqrt(0.25 * 0.75 / n)
    assert abs(mask.mean() - 0.75) < five_sigma
    for change in (dict(layer=2), dict(step=1), dict(seed=6), dict(seed=5 + 2**32)):
        other = keep_mask((n,), **(attrs | change))
        assert abs((mask & other).mean() - 0.75**2) < five_sigma


def test_same_mask_on_any_number_of_cores(monkeypatch):
    masks = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(parallel, "_cores", lambda cores=cores: cores)
        masks.append(keep_mask((3, 16, 64, 64), p=0.5, seed=9, layer=0, step=1).tobytes())
    assert masks[0] == masks[1] == masks[2]


def test_no_elements():
    assert keep_mask((0, 3, 4, 5), p=0.5, seed=0, layer=0, step=0).shape == (0, 3, 4, 5)
