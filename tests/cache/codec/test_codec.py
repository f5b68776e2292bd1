"""The codecs keep the argmax and the logits, and state their error correctly."""

import numpy as np
import pytest
from numba import njit

import cache
from cache.codec import kernels
from cache.codec.registry import codec_from_json
from tests.support.stores import small as small_store
from tests.support.stores.small import blobs

FLOOR = 0.003


def kl(p_logits, q_logits):
    """KL(softmax p || softmax q) over all pixels in float64, computed from the definition."""
    p = np.exp(np.float64(p_logits) - np.max(p_logits))
    q = np.exp(np.float64(q_logits) - np.max(q_logits))
    p, q = p / p.sum(), q / q.sum()
    return sum(a * np.log(a / b) for a, b in zip(p.ravel(), q.ravel(), strict=True) if a > 0)


def log_logits(exact, shown, temperature):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(exact >= np.float32(FLOOR), np.log(np.float64(shown)) / temperature, -np.inf)


CODECS = [cache.RootCodec(), cache.RootCodec(levels=24), *map(cache.FloatCodec, ("float16", "float16-cut", "float32"))]


@pytest.fixture(params=CODECS)
def codec(request):
    return request.param


def test_stated_error_equals_an_independent_computation(codec):
    maps = blobs(3, 2)
    for record in maps:
        stored, peak, error = codec.encode(record)
        shown = codec.decode(stored, peak)
        for view, joint in np.ndindex(error.shape[:2]):
            h, v = record[view, joint], shown[view, joint]
            expected = [kl(log_logits(h, h, t), log_logits(h, v, t)) for t in (1, 4)]
            expected += [kl(h / t, v / t) for t in (1, 4)]
            np.testing.assert_allclose(error[view, joint], expected, rtol=1e-5, atol=1e-10)


def test_default_codec_is_within_a_ten_thousandth_of_a_nat():
    error = np.concatenate([cache.RootCodec().encode(record).error for record in blobs(50, 2, height=64, width=48)])
    assert np.nanmean(error[..., 0]) <= 1e-4
    assert np.nanmean(error[..., 1]) <= 1e-4


def test_error_falls_with_the_number_of_levels():
    maps = blobs(20, 1)
    errors = [
        np.nanmean([cache.RootCodec(levels=levels).encode(record).error[..., 0] for record in maps])
        for levels in (8, 16, 32, 64, 128, 255)
    ]
    assert errors == sorted(errors, reverse=True)


def test_argmax_survives(codec):
    maps = blobs(50, 2)
    for record in maps:
        stored, peak, _ = codec.encode(record)
        shown = codec.decode(stored, peak)
        flat = (*record.shape[:2], -1)
        assert (shown.reshape(flat).argmax(-1) == record.reshape(flat).argmax(-1)).all()


@pytest.mark.parametrize("levels", [3, 24, 96, 255])
def test_argmax_survives_near_ties_and_ties(levels):
    codec = cache.RootCodec(levels=levels)
    record = np.full((1, 3, 4, 6), 0.9, np.float32)
    record[0, 0, 2, 3] = np.nextafter(np.float32(0.9), np.float32(1))
    record[0, 1, 3, 5] = 0.9001
    stored, peak, _ = codec.encode(record)  # joint 2 is constant: the first pixel is the argmax
    assert codec.decode(stored, peak).reshape(3, -1).argmax(-1).tolist() == [2 * 6 + 3, 3 * 6 + 5, 0]


def test_peak_is_exact_and_the_floor_removes():
    record = blobs(1, 2)[0]
    stored, peak, _ = cache.RootCodec().encode(record)
    shown = cache.RootCodec().decode(stored, peak)
    assert (peak == record.max(axis=(-2, -1))).all()
    assert (shown.max(axis=(-2, -1)) == peak).all()
    assert ((shown > 0) == (record >= np.float32(FLOOR))).all()
    assert (shown[shown > 0] >= np.float32(FLOOR)).all()


@pytest.mark.parametrize("floor", [0.001, 0.0031, 0.01, 0.1])
def test_no_codec_changes_which_values_reach_the_floor(floor):
    record = np.float32(floor) * (1 + np.linspace(-1e-3, 1e-3, 96, dtype=np.float32)).reshape(1, 1, 12, 8)
    record[0, 0, 0, 0] = 1
    floats = (cache.FloatCodec(name, floor) for name in ("float16", "float16-cut", "float32"))
    for codec in (cache.RootCodec(floor), *floats):
        shown = codec.decode(*codec.encode(record)[:2])
        assert ((shown >= np.float32(floor)) == (record >= np.float32(floor))).all()


@pytest.mark.parametrize("value", [0.0, -0.5, 0.003, 1e-30])
def test_a_map_with_nothing_above_the_floor_is_all_zero(value):
    record = np.full((1, 1, 12, 8), value, np.float32)
    stored, peak, error = cache.RootCodec().encode(record)
    assert not stored.any()
    assert peak == np.float32(value)
    assert np.isnan(error[..., :2]).all()
    assert error[..., 2] == pytest.approx(0, abs=1e-12)  # constant: the softmax of both is uniform
    assert not cache.RootCodec().decode(stored, peak).any()


def test_huge_maps_are_coded_like_any_other():
    record = blobs(1, 1)[0] * np.float32(1e30)
    stored, peak, error = cache.RootCodec(levels=255).encode(record)
    assert np.isfinite(error).all()
    assert np.isfinite(cache.RootCodec(levels=255).decode(stored, peak)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_place(codec, value):
    record = blobs(1, 2)[0]
    record[1, 3, 4, 5] = value
    with pytest.raises(cache.StoreFormatError, match="view 1, joint 3"):
        codec.encode(record)


def test_float16_refuses_what_it_cannot_hold():
    with pytest.raises(cache.StoreFormatError, match="too large"):
        cache.FloatCodec("float16").encode(blobs(1, 1)[0] * np.float32(1e6))


def half_reference(maps, floor):
    """float16 as docs/format.md specifies it, in numpy: nearest, but never across the floor or up to the peak."""
    rounded = maps.astype(np.float16)
    flat, exact = rounded.reshape(*maps.shape[:2], -1), maps.reshape(*maps.shape[:2], -1)
    top = exact.argmax(-1, keepdims=True)
    made_equal = (flat == np.take_along_axis(flat, top, -1)) & (exact != np.take_along_axis(exact, top, -1))
    rounded = np.where(made_equal, np.nextafter(flat, np.float16(-np.inf)), flat).reshape(maps.shape)
    up, down = (maps >= floor) & (rounded < floor), (maps < floor) & (rounded >= floor)
    rounded = np.where(up, np.nextafter(rounded, np.float16(np.inf)), rounded)
    return np.where(down, np.nextafter(rounded, np.float16(-np.inf)), rounded)


def close_maps(kind):
    """(2, 5, 12, 8) float32 maps whose values lie next to each other, to the floor or to float16's limits."""
    rng, shape = np.random.default_rng(4), (2, 5, 12, 8)
    top, spread = {
        "peak": (0.9, 1e-4),
        "floor": (FLOOR, 1e-5),
        "negative": (-0.7, 1e-4),
        "small": (0, 2e-7),
        "large": (65000, 400),
        "mixed": (0, 1),
    }[kind]
    return np.float32(top) + rng.normal(0, spread, shape).astype(np.float32).clip(-3 * spread, spread)


@pytest.mark.parametrize("kind", ["peak", "floor", "negative", "small", "large", "mixed"])
def test_float16_is_rounded_as_the_format_says(kind):
    maps = close_maps(kind)
    expected = half_reference(maps, np.float32(FLOOR))
    stored, peak, _ = cache.FloatCodec("float16").encode(maps)
    assert (stored.view(np.uint16) == expected.view(np.uint16)).all()
    assert (peak == expected.max(axis=(-2, -1))).all()
    cut, peak_of_cut, _ = cache.FloatCodec("float16-cut").encode(maps)
    assert (cut == np.where(maps >= np.float32(FLOOR), expected, 0)).all()
    assert (peak_of_cut == peak).all()
    assert not np.signbit(cut[maps < FLOOR / 2]).any()


def test_every_half_is_decoded_as_numpy_converts_it():
    """All 65,536 bit patterns: normal, subnormal, both zeros, infinities and NaN."""
    halves = np.arange(65536, dtype=np.uint16).reshape(4, 128, 128)
    found = np.empty(halves.shape, np.float32)
    assert not kernels.decode_half(halves, np.arange(4), found)
    expected = halves.view(np.float16).astype(np.float32)
    nan = np.isnan(expected)
    assert nan.sum() == 2046
    assert np.isnan(found[nan]).all()
    assert (found.view(np.uint32) == expected.view(np.uint32))[~nan].all()
    finite = np.isfinite(expected).reshape(-1, 32, 16)
    assert finite.all(axis=(1, 2)).sum() == 124  # 1,024 patterns of either sign are infinite or NaN
    for block, are_finite in zip(halves.reshape(-1, 1, 32, 16), finite.all(axis=(1, 2)), strict=True):
        assert kernels.decode_half(block, np.arange(1), np.empty(block.shape, np.float32)) == are_finite


def test_floats_are_rounded_to_halves_as_numpy_rounds_them():
    """Random bit patterns, every half, its neighbours and what lies in the middle of two: ties go to the even one."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.sort(halves[np.isfinite(halves)])
    middle = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    anything = np.random.default_rng(5).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    special = np.array([np.inf, -np.inf, np.nan, 65519.996, 65520, -65520, 2**-14, 2**-25, 2**-26, -0.0], np.float32)
    near = [np.nextafter(middle, np.float32(limit)) for limit in (-np.inf, np.inf)]
    for value in (halves, middle, *near, anything, special):
        with np.errstate(over="ignore"):
            expected = value.astype(np.float16)
        found = round_all(value).view(np.float16)
        nan = np.isnan(value)
        assert np.isnan(found[nan]).all()
        assert (found.view(np.uint16) == expected.view(np.uint16))[~nan].all()


@njit
def round_all(values):
    halves = np.empty(values.size, np.uint16)
    for i in range(values.size):
        halves[i] = kernels._float_to_half(values[i])
    return halves


def test_what_is_cut_is_background_and_costs_no_log_logit():
    """The divergences of log logits are those of float16; those of raw logits are stated for the cut maps."""
    maps = blobs(6, 2)
    for record in maps:
        whole, cut = (cache.FloatCodec(name).encode(record) for name in ("float16", "float16-cut"))
        assert (cut.stored == np.where(record >= np.float32(FLOOR), whole.stored, 0)).all()
        np.testing.assert_allclose(cut.error[..., :2], whole.error[..., :2], rtol=1e-9)
        assert (cut.error[..., 2] > 10 * whole.error[..., 2]).all()


def test_float32_is_exact():
    record = blobs(1, 2)[0]
    stored, peak, error = cache.FloatCodec().encode(record)
    assert (cache.FloatCodec().decode(stored, peak) == record).all()
    assert not error.any()


def test_tables_are_the_decoder():
    record = blobs(1, 2)[0]
    codec = cache.RootCodec()
    stored, peak, _ = codec.encode(record)
    tables, codes = codec.tables(peak), codec.codes(stored)
    looked_up = np.stack([[t[c] for t, c in zip(*pair, strict=True)] for pair in zip(tables, codes, strict=True)])
    assert (looked_up == codec.decode(stored, peak)).all()


@pytest.mark.parametrize("width", [6, 8, 24])
def test_interleaved_maps_are_the_decoded_ones_in_the_order_asked(codec, width):
    """The output may have any strides, and the memory around it does not change."""
    record = blobs(1, 1, joints=5, height=7, width=width)[0]
    record[0, 2] = -1  # nothing above the floor
    stored, peak, _ = codec.encode(record)
    order, memory = np.array([3, 0, 4, 2, 1]), np.full((9, width + 2, 5), 77, np.float32)
    inner = memory[1:-1, 1:-1]
    inner[...] = 0
    codec.decode_interleaved(stored[0], peak[0], order, inner)
    assert (inner == codec.decode(stored[0], peak[0])[order].transpose(1, 2, 0)).all()
    inner[...] = 77
    assert (memory == 77).all()


def test_eight_differences_are_summed_at_a_time_modulo_256():
    """Any bytes, also those that no encoder writes, give the codes of plain sums."""
    codec, order = cache.RootCodec(levels=255), np.arange(3)
    residuals = np.random.default_rng(3).integers(0, 256, (3, 9, 16), np.uint8)
    peak = np.array([1.0, 0.5, 0.9], np.float32)
    out = np.zeros((9, 16, 3), np.float32)
    codec.decode_interleaved(residuals, peak, order, out)
    codes = np.cumsum(np.cumsum(residuals, -1, dtype=np.uint8), -2, dtype=np.uint8)
    expected = np.stack([table[code] for table, code in zip(codec.tables(peak), codes, strict=True)], axis=2)
    assert (out == expected).all()


def test_decoding_follows_the_formula_of_the_format():
    codec = cache.RootCodec()
    record = blobs(1, 2)[0]
    stored, peak, _ = codec.encode(record)
    codes = np.cumsum(np.cumsum(stored, -1, dtype=np.uint8), -2, dtype=np.uint8)
    assert (codes == codec.codes(stored)).all()
    low, high = FLOOR**0.25, peak[..., None, None].astype(float) ** 0.25
    expected = np.where(codes, (low + (codes - 1.0) / (codec.levels - 1) * (high - low)) ** 4, 0)
    np.testing.assert_allclose(codec.decode(stored, peak), expected, rtol=1e-6)


def test_a_code_or_peak_that_cannot_be_is_refused():
    stored = np.zeros((1, 4, 6), np.uint8)
    with pytest.raises(cache.StoreFormatError, match="peak"):
        cache.RootCodec().decode(stored, np.array([np.nan], np.float32))
    stored[0, 1, 1] = 128
    with pytest.raises(cache.StoreFormatError, match="above 127"):
        cache.RootCodec().decode(stored, np.array([1], np.float32))


def test_encoding_is_deterministic_and_leaves_its_input(codec):
    record = blobs(1, 2)[0]
    before = record.copy()
    first, second = codec.encode(record), codec.encode(record)
    assert (record == before).all()
    assert first.stored.tobytes() == second.stored.tobytes()


@pytest.mark.parametrize("name", ["root4", "root4:24", "float16", "float16-cut", "float32"])
def test_a_codec_survives_its_name_and_its_description(name):
    codec = cache.codec_from_name(name, floor=0.01)
    assert codec_from_json(codec.to_json()) == codec


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("root4:2", "levels must be in 3..255, not 2"),
        ("root4:256", "levels must be in 3..255, not 256"),
        ("root4:x", "LEVELS must be a whole number"),
        ("jpeg", "known codecs: root4, root4:LEVELS, float16, float32, float16-cut"),
        ("", "known codecs: root4"),
        ("rot4:64", r"did you mean root4\?"),
        ("float64", r"did you mean float16 or float32\?"),
    ],
)
def test_unknown_codecs_are_refused(name, message):
    with pytest.raises(cache.StoreFormatError, match=message):
        cache.codec_from_name(name)


def test_a_codec_of_a_newer_program_says_so():
    with pytest.raises(cache.StoreFormatError, match="upgrade"):
        codec_from_json({"name": "root8", "version": 1})


def test_the_manifest_states_the_error_of_what_is_read_back(tmp_path):
    """Mean and worst of all four divergences over the written maps, between the exact and the stored maps."""
    store = small_store.make(tmp_path / "s.zarr", skip=(4,), codec=cache.RootCodec(levels=24))
    nats = {"log_t1": [], "log_t4": [], "raw_t1": [], "raw_t4": []}
    for index, exact in enumerate(blobs(20, 2)):
        if index == 4:
            continue
        for h, v in zip(exact.reshape(-1, *exact.shape[2:]), store.heatmaps([index]).reshape(-1, 12, 8), strict=True):
            nats["log_t1"].append(kl(log_logits(h, h, 1), log_logits(h, v, 1)))
            nats["log_t4"].append(kl(log_logits(h, h, 4), log_logits(h, v, 4)))
            nats["raw_t1"].append(kl(h, v))
            nats["raw_t4"].append(kl(h / 4, v / 4))
    for kind, found in nats.items():
        expected = {"mean": np.mean(found), "worst": np.max(found), "maps": 19 * 2 * 5}
        assert store.manifest["codec_error"][kind] == pytest.approx(expected, rel=1e-4)
        assert 0 < expected["mean"] < expected["worst"]
