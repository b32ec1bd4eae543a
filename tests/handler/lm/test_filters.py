"""The filters against plain numpy, over whole vocabularies and in every type that logits have."""

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

from app.handler.lm.sampling import filters

Integers = npt.NDArray[np.int64]

# Up to 4096 candidates are sorted, more are searched for a threshold.
SIZES = (1, 7, 1000, 4096, 4097, 49_152)
TYPES = (mx.float32, mx.float16, mx.bfloat16)
HALF = 2**31


def random_logits(rows: int, size: int, dtype: mx.Dtype, seed: int = 0) -> mx.array:
    """Normal, with many equal values, infinities and both zeros among them."""
    draw = np.random.default_rng(seed)
    values = draw.normal(scale=3.0, size=(rows, size)).astype(np.float32)
    values[:, ::3] = np.round(values[:, ::3])
    values[:, 5::7] = -np.inf
    values[:, 2::11] = -0.0
    return mx.array(values).astype(dtype)


def integers(array: mx.array) -> Integers:
    return np.array(array).astype(np.int64)


def expected_highest(keys: Integers, weights: Integers, least: Integers) -> npt.NDArray[np.bool_]:
    kept = np.zeros(keys.shape, dtype=np.bool_)
    for row, (own_keys, own_weights) in enumerate(zip(keys, weights, strict=True)):
        order = np.argsort(-own_keys, kind="stable")
        before = np.cumsum(own_weights[order]) - own_weights[order]
        kept[row, order[before < least[row]]] = True
    return kept


def laid_out(logits: mx.array) -> tuple[mx.array, mx.array, int]:
    """Weights, keys and the keys' bits, as a lane has them."""
    probabilities = filters.relative_probabilities(logits, mx.full((logits.shape[0], 1), 1.25))
    keys, num_bits = filters.order_of(probabilities if logits.dtype == mx.float32 else logits)
    return filters.weights_of(probabilities), keys, num_bits


class TestWeights:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", TYPES)
    def test_are_the_softmax(self, size: int, dtype: mx.Dtype) -> None:
        logits = random_logits(3, size, dtype)
        wide = np.array(logits.astype(mx.float32), dtype=np.float64)
        expected = np.exp((wide - wide.max(-1, keepdims=True)) / 0.7)
        expected /= expected.sum(-1, keepdims=True)
        scale = mx.full((3, 1), float(np.log2(np.e) / 0.7))
        weights = integers(filters.weights_of(filters.relative_probabilities(logits, scale)))
        np.testing.assert_allclose(weights / 2**31, expected, rtol=1e-4, atol=2**-31)
        assert (weights.sum(-1) < 2**32).all()

    @pytest.mark.parametrize("dtype", TYPES)
    def test_the_order_of_the_keys_is_that_of_the_logits(self, dtype: mx.Dtype) -> None:
        logits = random_logits(1, 5000, dtype)
        values = np.array(logits.astype(mx.float32))[0]
        _, keys, num_bits = laid_out(logits)
        own = integers(keys)[0]
        assert (own >= 0).all()
        assert (own < 2**num_bits).all()
        order = np.argsort(-values, kind="stable")
        assert (np.diff(own[order]) <= 0).all()
        if dtype != mx.float32:
            np.testing.assert_array_equal(np.argsort(-own, kind="stable"), order)

    def test_a_share_is_rounded_up(self) -> None:
        weights = mx.array([[1, 1, 1]], dtype=mx.uint32)
        for share, least in ((1, 1), (HALF, 2), (2**32, 3), (HALF // 2, 1), (2**32 - 1, 3)):
            assert filters.share_of(weights, mx.array([[share]], dtype=mx.uint64)).tolist() == [[least]]


class TestHighest:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", TYPES)
    def test_by_weight(self, size: int, dtype: mx.Dtype) -> None:
        weights, keys, num_bits = laid_out(random_logits(6, size, dtype, seed=size))
        shares = [1, HALF, 2**32 * 9 // 10, 2**32 * 99 // 100, 2**32 - 1, 2**32]
        least = filters.share_of(weights, mx.array(shares, dtype=mx.uint64)[:, None])
        kept = np.array(filters.keep_highest(keys, num_bits, weights, least))
        expected = expected_highest(integers(keys), integers(weights), integers(least))
        np.testing.assert_array_equal(kept, expected)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("dtype", TYPES)
    def test_by_count(self, size: int, dtype: mx.Dtype) -> None:
        counts = np.array([[1], [2], [40], [300], [5000], [10**6]])
        _, keys, num_bits = laid_out(random_logits(len(counts), size, dtype, seed=size))
        least = mx.array(counts, dtype=mx.uint32)  # type: ignore[arg-type]
        kept = np.array(filters.keep_highest(keys, num_bits, mx.array([[1]], dtype=mx.uint32), least))
        ones = np.ones(keys.shape, dtype=np.int64)
        np.testing.assert_array_equal(kept, expected_highest(integers(keys), ones, counts))
        assert kept.sum(-1).tolist() == [min(count, size) for count in counts[:, 0]]

    @pytest.mark.parametrize("size", [6, 5000])
    def test_where_all_are_equal_the_first(self, size: int) -> None:
        keys = mx.full((2, size), 7, dtype=mx.uint32)
        weights = mx.full((2, size), 10, dtype=mx.uint32)
        kept = filters.keep_highest(keys, 30, weights, mx.array([[20], [21]], dtype=mx.uint32))
        assert [np.flatnonzero(row).tolist() for row in np.array(kept)] == [[0, 1], [0, 1, 2]]

    @pytest.mark.parametrize("size", [500, 20_000])
    @pytest.mark.parametrize("dtype", TYPES)
    def test_a_row_is_the_same_alone_and_among_others(self, size: int, dtype: mx.Dtype) -> None:
        logits = random_logits(9, size, dtype)

        def kept(part: mx.array) -> npt.NDArray[np.bool_]:
            weights, keys, num_bits = laid_out(part)
            share = mx.full((len(part), 1), int(0.95 * 2**32), dtype=mx.uint64)
            return np.array(filters.keep_highest(keys, num_bits, weights, filters.share_of(weights, share)))

        together = kept(logits)
        for row in range(9):
            np.testing.assert_array_equal(kept(logits[row : row + 1])[0], together[row])


class TestShortlist:
    @pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 49_152])
    @pytest.mark.parametrize("dtype", TYPES)
    @pytest.mark.parametrize("count", [1, 20, 128])
    def test_is_the_beginning_of_the_sorted_row(self, size: int, dtype: mx.Dtype, count: int) -> None:
        logits = random_logits(4, size, dtype, seed=count)
        values = np.array(logits.astype(mx.float32))
        listed, places = filters.shortlist(logits, count)
        expected = np.argsort(-values, axis=-1, kind="stable")[:, :count]
        number = min(count, size)
        np.testing.assert_array_equal(np.array(places)[:, :number], expected)
        np.testing.assert_array_equal(
            np.array(listed.astype(mx.float32))[:, :number], np.sort(values)[:, ::-1][:, :count]
        )
        assert listed.dtype == dtype
        # More than there are: what is left over can never be drawn.
        assert (np.array(listed.astype(mx.float32))[:, number:] == -np.inf).all()


class TestTypical:
    """Hugging Face's TypicalLogitsWarper, in numpy."""

    @pytest.mark.parametrize("size", [5, 900, 6000])
    @pytest.mark.parametrize("mass", [0.1, 0.5, 0.9])
    def test_keeps_what_is_closest_to_the_expected_surprise(self, size: int, mass: float) -> None:
        logits = np.random.default_rng(size).normal(scale=2.0, size=(3, size)).astype(np.float32)
        weights = filters.weights_of(
            filters.relative_probabilities(mx.array(logits), mx.full((3, 1), float(np.log2(np.e))))
        )
        keys, num_bits = filters.typical_order(weights)
        least = filters.share_of(weights, mx.full((3, 1), int(np.ceil(mass * 2**32)), dtype=mx.uint64))
        kept = np.array(filters.keep_highest(keys, num_bits, weights, least))
        for row in range(3):
            share = np.exp(logits[row].astype(np.float64))
            share /= share.sum()
            distance = abs(-np.log(share) - (share * -np.log(share)).sum())
            order = np.argsort(distance, kind="stable")
            before = np.cumsum(share[order]) - share[order]
            expected = set(order[before < mass].tolist())
            # Rounding may decide between neighbours at the edge, and only there.
            for token in expected ^ set(np.flatnonzero(kept[row]).tolist()):
                at = int(np.flatnonzero(order == token)[0])
                assert abs(before[at] - mass) < 1e-4 or abs(distance[order[at - 1]] - distance[token]) < 1e-5
            assert kept[row].any()

    def test_the_likeliest_token_can_be_ruled_out(self) -> None:
        weights = mx.array([[40, 20, 20, 10, 10]], dtype=mx.uint32)
        keys, num_bits = filters.typical_order(weights)
        kept = filters.keep_highest(keys, num_bits, weights, mx.array([[30]], dtype=mx.uint32))
        assert kept.tolist() == [[False, True, True, False, False]]

    def test_what_is_ruled_out_already_is_not_brought_back(self) -> None:
        weights = mx.array([[0, 50, 0, 25, 25]], dtype=mx.uint32)
        keys, num_bits = filters.typical_order(weights)
        kept = filters.keep_highest(keys, num_bits, weights, mx.array([[100]], dtype=mx.uint32))
        assert (weights * kept).tolist() == weights.tolist()


class TestWithoutTopChoices:
    """mlx_lm's apply_xtc: all above the threshold go but the least likely of them."""

    def left(self, weights: list[int], threshold: float, spared: tuple[int, ...] = ()) -> list[int]:
        is_spared = mx.array([[place in spared for place in range(len(weights))]])
        array = mx.array([weights], dtype=mx.uint32)
        result = filters.without_top_choices(array, mx.array([[threshold]]), is_spared)
        return np.flatnonzero(np.array(result)[0]).tolist()

    def test_all_but_the_least_likely_above_the_threshold(self) -> None:
        weights = [400, 50, 300, 150, 100]
        assert self.left(weights, 0.12) == [1, 3, 4]
        assert self.left(weights, 0.35) == [0, 1, 2, 3, 4]
        assert self.left(weights, 0.0) == [1]
        assert self.left(weights, 0.5) == [0, 1, 2, 3, 4]

    def test_equals_of_the_least_likely_stay_too(self) -> None:
        assert self.left([500, 200, 200, 100], 0.15) == [1, 2, 3]

    def test_those_that_are_spared_stay(self) -> None:
        assert self.left([400, 50, 300, 150, 100], 0.12, (2,)) == [1, 2, 3, 4]

    def test_shares_are_of_what_the_other_filters_have_left(self) -> None:
        assert self.left([0, 50, 30, 0, 20], 0.25) == [2, 4]


class TestDraw:
    @pytest.mark.parametrize("number", [0, 1, HALF, 2**32 - 1])
    def test_never_what_has_no_weight(self, number: int) -> None:
        weights = np.zeros((1, 200_000), dtype=np.uint32)
        weights[0, [7, 150_000]] = [HALF // 4, HALF // 4 * 3]
        drawn = filters.draw(mx.array(weights), mx.array([[number]], dtype=mx.uint32))
        assert drawn.tolist() == [7 if number < HALF // 2 else 150_000]

    def test_each_as_often_as_its_weight(self) -> None:
        weights = [3, 0, 1, 4]
        numbers = [(place * 2**32 + HALF) // 8 for place in range(8)]
        drawn = filters.draw(mx.array([weights] * 8, dtype=mx.uint32), mx.array(numbers, dtype=mx.uint32)[:, None])
        assert drawn.tolist() == [0, 0, 0, 2, 3, 3, 3, 3]
