"""The two sparse operators against the dense products that they stand for."""

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from pyro_pmf.data.pairs import CellBlocks, Pairs
from pyro_pmf.moments import bilinear
from pyro_pmf.moments.bilinear import cell_sum, dot, gram, unpacked, weighted_sum

N, M, K = 5, 4, 3
USER = torch.tensor([0, 0, 1, 1, 1, 3, 3])  # rows 2 and 4 are empty
ITEM = torch.tensor([1, 3, 0, 1, 3, 0, 1])  # so is column 2
LEADS = [((), ()), ((2,), ()), ((), (2,)), ((3, 1), (2,)), ((2, 2), (2, 2))]


@pytest.fixture(params=["kernels", "fallback"], autouse=True)
def _implementation(request, monkeypatch):
    """Run each test on both implementations, the fallback in chunks of 3, 3 and 1 cells."""
    if request.param == "fallback":
        monkeypatch.setattr(bilinear, "_has_sparse_kernels", lambda device: False)
        monkeypatch.setattr(bilinear, "_CHUNK", 3)
    elif not torch.backends.mkl.is_available():
        pytest.skip("torch without MKL")


@pytest.fixture(params=["dot", "dot of T", "weighted_sum", "weighted_sum of T"])
def case(request):
    """An operator, its dense twin, and the trailing shapes of their arguments."""
    pattern = Pairs(USER, ITEM, N, M).pattern
    rows, columns, n, m = USER, ITEM, N, M
    if request.param.endswith("T"):
        order = torch.argsort(ITEM, stable=True)
        pattern, rows, columns, n, m = pattern.T, ITEM[order], USER[order], M, N
    if request.param.startswith("dot"):
        return (
            lambda U, V: dot(U, V, pattern),
            lambda U, V: (U @ V.mT)[..., rows, columns],
            (n, K),
            (m, K),
        )

    def dense(weights, V):
        matrix = weights.new_zeros(*weights.shape[:-1], n * m)
        return matrix.index_add(-1, rows * m + columns, weights).unflatten(-1, (n, m)) @ V

    return lambda w, V: weighted_sum(w, V, pattern), dense, (len(rows),), (m, K)


def arguments(case, lead_a=(), lead_b=()):
    *_, a, b = case
    shapes = (*lead_a, *a), (*lead_b, *b)
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("lead_a", "lead_b"), LEADS)
def test_value_and_gradient_are_those_of_the_dense_product(case, lead_a, lead_b):
    sparse, dense, *_ = case
    inputs = arguments(case, lead_a, lead_b)
    got, wanted = sparse(*inputs), dense(*inputs)
    torch.testing.assert_close(got, wanted)
    cotangent = torch.randn_like(wanted)
    torch.testing.assert_close(grad(got, inputs, cotangent), grad(wanted, inputs, cotangent))


@pytest.mark.slow
@pytest.mark.parametrize(("lead_a", "lead_b"), LEADS)
def test_first_and_second_derivatives(case, lead_a, lead_b):
    """Entry by entry, or along a random direction where there are many of them."""
    inputs = arguments(case, lead_a, lead_b)
    is_large = len(lead_a) > 1
    assert gradcheck(case[0], inputs, fast_mode=is_large)
    assert gradgradcheck(case[0], inputs, fast_mode=is_large)


def test_one_argument_may_be_constant(case):
    sparse, dense, *_ = case
    for constant in (0, 1):
        inputs = arguments(case)
        inputs[constant].requires_grad_(False)
        learnt = inputs[1 - constant]
        got, wanted = (grad(f(*inputs).square().sum(), learnt)[0] for f in (sparse, dense))
        torch.testing.assert_close(got, wanted)


def test_strides_do_not_matter(case):
    sparse, *_ = case
    a, b = (x.detach() for x in arguments(case))
    strided = torch.stack([a, -a], -1)[..., 0], b.mT.contiguous().mT
    assert not any(x.is_contiguous() for x in strided)
    torch.testing.assert_close(sparse(*strided), sparse(a, b), rtol=0, atol=0)


def test_float32_stays_float32(case):
    sparse, dense, *_ = case
    inputs = [x.detach().float() for x in arguments(case)]
    assert sparse(*inputs).dtype == torch.float32
    torch.testing.assert_close(sparse(*inputs), dense(*(x.double() for x in inputs)).float())


@pytest.mark.parametrize("n_cells", [7, 40])
def test_pairs_may_repeat_and_be_more_than_the_cells_of_the_matrix(n_cells):
    """Of 20 cells: a matrix of fewer, and of more, stored values."""
    cells = torch.randint(N * M, (n_cells,)).sort().values
    user, item = cells // M, cells % M
    pattern = Pairs(user, item, N, M).pattern
    U, V, weights = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((N, K), (M, K), (n_cells,))
    )
    onehot = torch.nn.functional.one_hot(user, N).double()
    for got, wanted in (
        (dot(U, V, pattern), (U @ V.T)[user, item]),
        (weighted_sum(weights, V, pattern), onehot.T @ (weights[:, None] * V[item])),
    ):
        torch.testing.assert_close(got, wanted)
        sides = (U, V, weights)
        ours, theirs = (
            grad(x.square().sum(), sides, allow_unused=True, materialize_grads=True)
            for x in (got, wanted)
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("n_factors", [0, 1, 5, 6, 17])  # 0, 1, 15, 21 and 153 products
def test_gram_matrices_are_those_of_the_dense_rows(n_factors):
    weights, V = torch.randn(len(USER)).double(), torch.randn(M, n_factors).double()
    got = unpacked(gram(weights, V, Pairs(USER, ITEM, N, M).pattern))
    for row in range(N):
        X, w = V[ITEM[row == USER]], weights[row == USER]
        torch.testing.assert_close(got[row], X.T @ torch.diag(w) @ X)


def in_blocks():
    """The cells as blocks of users 0 and 1, and 2 to 4."""
    first = Pairs(USER[:5], ITEM[:5], 2, M).pattern
    return CellBlocks(
        (slice(0, 2), slice(2, 5)), (first, Pairs(USER[5:] - 2, ITEM[5:], 3, M).pattern)
    )


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("cells", [Pairs(USER, ITEM, N, M).pattern, in_blocks()])
def test_sums_over_cells_are_those_of_the_dense_matrix(cells, transposed, lead):
    seen = torch.zeros(N, M, dtype=torch.float64)
    seen[USER, ITEM] = 1.0
    seen, cells = (seen.T, cells.T) if transposed else (seen, cells)
    V = torch.randn(*lead, seen.shape[1], K, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(cell_sum(V, cells), seen @ V)
    assert gradcheck(lambda x: cell_sum(x, cells), V)
    assert gradgradcheck(lambda x: cell_sum(x, cells) ** 2, V)


def test_no_cells_and_no_factors():
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = Pairs(nothing, nothing, N, M).pattern
    assert dot(torch.ones(2, N, K), torch.ones(M, K), empty).shape == (2, 0)
    assert torch.equal(weighted_sum(torch.ones(0), torch.ones(M, K), empty), torch.zeros(N, K))
    pattern = Pairs(USER, ITEM, N, M).pattern
    assert torch.equal(dot(torch.ones(N, 0), torch.ones(M, 0), pattern), torch.zeros(len(USER)))


def test_no_batches():
    pattern = Pairs(USER, ITEM, N, M).pattern
    assert dot(torch.ones(0, N, K), torch.ones(M, K), pattern).shape == (0, len(USER))
    assert weighted_sum(torch.ones(len(USER)), torch.ones(0, M, K), pattern).shape == (0, N, K)


def test_result_does_not_alias_an_argument(case):
    sparse, *_ = case
    a, b = (x.detach() for x in arguments(case))
    before = a.clone(), b.clone()
    sparse(a, b).fill_(7.0)
    torch.testing.assert_close((a, b), before, rtol=0, atol=0)


BIAS_LEADS = [
    ((), (), (), ()),
    ((2,), (), (), ()),
    ((), (), (2,), ()),
    ((), (2,), (3, 1), ()),
    ((3, 1), (), (), (2,)),
]


def biased_arguments(leads=BIAS_LEADS[0], n_factors=K):
    shapes = (N, n_factors), (M, n_factors), (N,), (M,)
    return [
        torch.randn(*lead, *shape, dtype=torch.float64, requires_grad=True)
        for lead, shape in zip(leads, shapes, strict=True)
    ]


def biased(U, V, b=None, c=None):
    return dot(U, V, Pairs(USER, ITEM, N, M).pattern, b, c)


def dense_biased(U, V, b=None, c=None):
    score = U @ V.mT
    score = score if b is None else score + b[..., :, None]
    score = score if c is None else score + c[..., None, :]
    return score[..., USER, ITEM]


@pytest.mark.parametrize("leads", BIAS_LEADS)
def test_biases_are_added_with_their_gradients(leads):
    inputs = biased_arguments(leads)
    got, wanted = biased(*inputs), dense_biased(*inputs)
    torch.testing.assert_close(got, wanted)
    cotangent = torch.randn_like(wanted)
    torch.testing.assert_close(grad(got, inputs, cotangent), grad(wanted, inputs, cotangent))


@pytest.mark.slow
@pytest.mark.parametrize("leads", BIAS_LEADS[::3])
def test_first_and_second_derivatives_with_biases(leads):
    inputs = biased_arguments(leads)
    assert gradcheck(biased, inputs)
    assert gradgradcheck(biased, inputs)


@pytest.mark.parametrize("n_factors", [0, 1, K])
@pytest.mark.parametrize("given", ["b", "c", "bc"])
def test_one_bias_or_none_of_the_factors(given, n_factors):
    U, V, b, c = biased_arguments(n_factors=n_factors)
    biases = {name: x for name, x in (("b", b), ("c", c)) if name in given}
    inputs = [U, V, *biases.values()] if n_factors else [*biases.values()]
    got, wanted = (f(U, V, **biases) for f in (biased, dense_biased))
    torch.testing.assert_close(got, wanted)
    got, wanted = (grad(x.square().sum(), inputs) for x in (got, wanted))
    torch.testing.assert_close(got, wanted)
    assert gradcheck(
        lambda *x: biased(U, V, **dict(zip(biases, x, strict=True))), (*biases.values(),)
    )


def test_biases_without_cells():
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = Pairs(nothing, nothing, N, M).pattern
    U, V, b, c = biased_arguments()
    score = dot(U, V, empty, b, c)
    assert score.shape == (0,)
    assert all((part == 0).all() for part in grad(score.sum(), [U, V, b, c]))


@pytest.mark.slow
@pytest.mark.parametrize(("lead_a", "lead_b"), LEADS[:4:3])
def test_torch_finds_no_fault_with_the_operators(lead_a, lead_b):
    """Schema, fake tensors, autograd registration and AOT dispatch, by torch's own check."""
    pattern = Pairs(USER, ITEM, N, M).pattern
    V = torch.randn(*lead_b, M, K, requires_grad=True)
    U = torch.randn(*lead_a, N, K, requires_grad=True)
    weights = torch.randn(*lead_a, len(USER), requires_grad=True)
    torch.library.opcheck(bilinear._sddmm, (U, V, *pattern))
    torch.library.opcheck(bilinear._spmm, (weights, V, *pattern))
    torch.library.opcheck(bilinear._cell_sum, (V, *pattern))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_in_one_call_have_the_digits_of_a_call_for_each(monkeypatch, dtype):
    torch.manual_seed(0)
    user, item = torch.randint(30, (50,)).sort().values, torch.randint(20, (50,))
    pattern = Pairs(user, item, 30, 20).pattern
    U, V = torch.randn(4, 1, 30, K, dtype=dtype), torch.randn(3, 20, K, dtype=dtype)
    together = dot(U, V, pattern)
    assert together.shape == (4, 3, 50)
    monkeypatch.setattr(bilinear, "_TOGETHER", 0)
    assert torch.equal(dot(U, V, pattern), together)
