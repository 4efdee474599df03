"""A recording against the function that it was made of, run again."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _get_current_dispatch_mode

from pyro_pmf.inference.recording import NotRecordable, Recording

SHAPE = (3, 4)


@pytest.fixture
def x():
    return torch.randn(SHAPE)


@pytest.fixture
def y():
    return torch.randn(SHAPE)


def assert_bits(got, wanted):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert torch.equal(a, b)


def change(*tensors):
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.randn(tensor.shape))


def assert_plays(function, *varying):
    """Compare three runs, of other values each."""
    recording = Recording(function, varying)
    assert_bits(recording.first, function())
    for _ in range(3):
        change(*varying)
        assert_bits(recording(), function())
    return recording


# --- what it can record ---

CONSTANT = torch.linspace(-1, 2, 12).reshape(SHAPE)
INDEX = torch.tensor([2, 0, 0])


def in_place(x):
    a = x.clone()
    a.mul_(2).add_(CONSTANT).clamp_(-1, 1)
    a[1] = 7.0
    a[:, 2] += x[:, 0]
    a.t()[3].neg_()
    return a


def through_a_view(x):
    a = x * 2
    row = a[1]
    before = row.clone()
    a.mul_(3)
    row.add_(1)
    return a, row, before


def into_a_new_buffer(x):
    total = torch.zeros(5)
    total.index_add_(0, INDEX, x[:, 1])
    total.index_put_((INDEX,), x[:, 2], accumulate=True)
    out = torch.empty(4)
    torch.add(x[0], x[1], out=out)
    return total, out


def written_after_it_was_read(x):
    a = CONSTANT.clone()
    before = a + 1
    a[0].copy_(x[0])
    return before, a + 1


def many_outputs(x):
    first, *rest = x.unbind(1)
    values, where = x.max(1)
    largest, order = x.topk(2, -1)
    quotient, remainder = x.split([1, 2], 0)
    return first, rest[-1], values, where, largest, order, quotient, remainder, *x.chunk(2, 1)


def views(x):
    return x[1:, ::2], x.mT, x.reshape(-1)[2:], x[None].expand(2, 3, 4), x.diagonal(), x[..., -1]


def same_again(x):
    return x.detach() + 1, x.expand(3, 4), x.view(3, 4) * 2, x.data.clone(), x[:].detach()


def nothing_in_it(x):
    empty = x[:0]
    return empty, empty.sum(0), torch.cat([empty, x]), empty.detach(), empty.expand(0, 4)


OPERATIONS = {
    "element by element": lambda x: [x.exp() * 2 - CONSTANT / 3, x**2, -x, 1 - x, x.sigmoid()],
    "scalars": lambda x: [x.sum(), x.mean(), x.amax(), (x[0] @ x[1]), x[0, 0]],
    "reductions": lambda x: [x.sum(0), x.logsumexp(-1), x.std(1), x.argmax(), x.norm(dim=0)],
    "in place": lambda x: [in_place(x)],
    "in place, through a view": through_a_view,
    "into a new buffer": into_a_new_buffer,
    "written after it was read": written_after_it_was_read,
    "many outputs": many_outputs,
    "views": views,
    "the same again": same_again,
    "nothing in it": nothing_in_it,
    "where": lambda x: [torch.where(x > 0, x, CONSTANT), torch.where(CONSTANT > 0, x, 0.0)],
    "lists": lambda x: [torch.cat([x, CONSTANT, x[:1]]), torch.stack([x, 2 * x], -1)],
    "gathered": lambda x: [x[INDEX], x[:, INDEX], x.index_select(1, INDEX), x[INDEX, INDEX]],
    "broadcast": lambda x: [*torch.broadcast_tensors(x[:, :1], x[:1]), x[:, :1] + x[:1]],
    "matrices": lambda x: [x @ CONSTANT.T, torch.mv(x, x[0]), torch.einsum("ij,kj->ik", x, x)],
    "types": lambda x: [x.double().exp(), (x > 0).long().sum(), x.int() // 2, (x > 0) & (x < 1)],
    "nothing varies": lambda x: [CONSTANT.exp(), CONSTANT],
    "what was given": lambda x: [x, x[1:], x],
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_it_plays_what_the_function_does(operation, x):
    assert_plays(lambda: tuple(operation(x)), x)


@pytest.mark.parametrize("operation", [in_place, lambda x: (x.exp() @ CONSTANT.T).logsumexp(-1)])
def test_it_plays_the_gradient(operation, x, y):
    x.requires_grad_()

    def value_and_gradient():
        loss = (operation(x * y) * torch.linspace(0, 1, 3)[:, None]).square().sum()
        return loss, *torch.autograd.grad(loss, [x])

    assert_plays(value_and_gradient, x, y)


def test_it_plays_second_derivatives(x):
    x.requires_grad_()

    def curvature():
        (slope,) = torch.autograd.grad((x.sin() * x.exp()).sum(), x, create_graph=True)
        return slope, *torch.autograd.grad(slope.square().sum(), x)

    assert_plays(curvature, x)


def test_a_product_of_constants_that_is_written_to_in_place(x):
    """Its reshaped result is no view by the schema of torch's operator, and yet one."""
    left, right = torch.randn(2, 3, 4), torch.randn(4, 4)
    assert_plays(lambda: [(left @ right).add_(x)], x)


def test_conjugates_are_not_taken_for_the_numbers_themselves(x):
    assert_plays(lambda: [torch.complex(x, x + 1).conj().imag.clone()], x)


def test_a_given_tensor_that_is_written_to_is_not_a_constant(x):
    count = torch.zeros(4)

    def function():
        count.add_(1)
        return [x[0] + count, count * 2]

    recording = Recording(function, [x])
    assert count.tolist() == [1.0] * 4
    total, twice = recording()
    assert count.tolist() == [2.0] * 4
    assert twice.tolist() == [4.0] * 4
    assert torch.equal(total, x[0] + 2)


def test_tensors_that_the_function_closes_over_are_not_written_to(x):
    before = CONSTANT.clone()
    recording = Recording(lambda: [in_place(x)], [x])
    recording()
    assert torch.equal(CONSTANT, before)


UNARY = [torch.sin, torch.tanh, torch.detach, torch.clone, lambda a: a.mean(), lambda a: a[None]]
UNARY += [
    lambda a: a[..., 1:],
    lambda a: a[0],
    lambda a: a.transpose(0, -1),
    lambda a: a.flatten(),
]
UNARY += [lambda a: a.unbind(-1)[0], lambda a: a.max(-1).values, lambda a: a.expand(2, *a.shape)]
UNARY += [lambda a: a.sort(-1).values, lambda a: a.split(2, -1)[-1], lambda a: torch.ones(4) * 0.5]
BINARY = [torch.add, torch.mul, torch.minimum, lambda a, b: torch.where(a > b, a, b)]
BINARY += [lambda a, b: a.add_(b), lambda a, b: a.copy_(b), lambda a, b: a.mul_(0.5).sub_(b)]
BINARY += [lambda a, b: torch.cat([a, b]), lambda a, b: a.sin_(), lambda a, b: a.lerp(b, 0.25)]
STEP = st.tuples(st.sampled_from(UNARY + BINARY), st.integers(0, 20), st.integers(0, 20))


def run_program(steps, tensors):
    """Apply each step to earlier results; those that torch refuses are left out."""
    pool = list(tensors)
    for operation, i, j in steps:
        operands = [pool[i % len(pool)], pool[j % len(pool)]]
        try:
            pool.append(operation(*operands[: 1 if operation in UNARY else 2]))
        except (RuntimeError, IndexError):
            continue
    return pool


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=12))
def test_programs_drawn_at_random(steps):
    """Those given are written to as well: they are put back before each run, and compared."""
    generator = torch.Generator().manual_seed(0)
    constant = torch.randn(SHAPE, generator=generator)
    tensors = [torch.empty(SHAPE), torch.empty(SHAPE), constant.clone()]

    def begin(values):
        for tensor, value in zip(tensors, [*values, constant], strict=True):
            tensor.copy_(value)

    starts = torch.randn((3, 2, *SHAPE), generator=generator)
    begin(starts[0])
    recording = Recording(lambda: run_program(steps, tensors), tensors[:2])
    for start in starts:
        begin(start)
        wanted = [result.clone() for result in run_program(steps, tensors)]
        begin(start)
        assert_bits(recording(), wanted)


# --- what it keeps, and what it does again ---


@pytest.fixture(scope="module")
def counted():
    """An operator that squares, and what it was given; the library is theirs who hold it."""
    library = torch.library.Library("pyro_pmf_tests", "DEF")
    library.define("squared(Tensor x) -> Tensor")
    calls: list[torch.Tensor] = []

    def squared(x):
        calls.append(x.clone())
        return x * x

    library.impl("squared", squared, "CompositeExplicitAutograd")
    yield torch.ops.pyro_pmf_tests.squared.default, calls
    library._destroy()


def test_what_does_not_vary_is_not_computed_again(counted, x):
    squared, calls = counted
    recording = Recording(lambda: [squared(squared(CONSTANT) + 1) * x], [x])
    calls.clear()
    for _ in range(3):
        change(x)
        (result,) = recording()
        torch.testing.assert_close(result, (CONSTANT**2 + 1) ** 2 * x)
    assert not calls


def test_what_varies_is_computed_once_a_run(counted, x):
    squared, calls = counted
    recording = Recording(lambda: [squared(x[1:]).sum() + squared(CONSTANT).sum()], [x])
    calls.clear()
    for _ in range(3):
        recording()
    assert len(calls) == 3
    assert all(torch.equal(call, x[1:]) for call in calls)


def test_what_no_result_needs_is_not_computed(counted, x):
    squared, calls = counted

    def function():
        squared(x)
        return [x + 1]

    recording = Recording(function, [x])
    calls.clear()
    recording()
    assert not calls


def test_constants_are_those_of_the_recorded_run(x):
    given = CONSTANT.clone()
    recording = Recording(lambda: [given * 2 + x], [x])
    wanted = given * 2 + x
    given.fill_(5.0)
    assert torch.equal(*recording(), wanted)


def test_intermediate_tensors_are_freed(x):
    library = torch.library.Library("pyro_pmf_tests_freed", "DEF")
    library.define("step(Tensor x) -> Tensor")
    made: list[StorageWeakRef] = []
    alive = []

    def step(x):
        alive.append(sum(not ref.expired() for ref in made))
        out = x + 1
        made.append(StorageWeakRef(out.untyped_storage()))
        return out

    library.impl("step", step, "CompositeExplicitAutograd")

    def function():
        a = x
        for _ in range(10):
            a = torch.ops.pyro_pmf_tests_freed.step(a)
        return [a.sum()]

    recording = Recording(function, [x])
    made.clear()
    alive.clear()
    recording()
    assert len(alive) == 10
    assert max(alive) == 1
    assert all(ref.expired() for ref in made)
    library._destroy()


# --- random numbers ---


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(4),
        lambda: torch.empty(4).normal_(),
        lambda: torch.rand_like(CONSTANT[0]).mul_(2),
        lambda: torch.bernoulli(torch.full((4,), 0.5)) + torch.rand(()),
        lambda: torch.randperm(4) + torch.randint(100_000, (4,)),
        lambda: torch.distributions.Gamma(CONSTANT[2], 2.0).rsample(),
        lambda: torch.nn.functional.dropout(torch.rand(4), 0.5),
    ],
)
def test_random_numbers_are_drawn_anew(draw, x):
    recording = Recording(lambda: [draw() + x[0]], [x])
    state = torch.get_rng_state()
    drawn = recording()[0].clone()
    assert not torch.equal(drawn, recording.first[0])
    assert not torch.equal(drawn, recording()[0])
    torch.set_rng_state(state)
    assert torch.equal(drawn, draw() + x[0])


# --- what it cannot record ---


@pytest.mark.parametrize(
    "read",
    [
        lambda x: torch.tensor(x[0, 0].item()),
        lambda x: x * float(x.sum()),
        lambda x: x + 1 if x.sum() > 0 else x,
        lambda x: x[: int(x[0, 0].abs()) + 1],
        lambda x: x * torch.equal(x, CONSTANT),
        lambda x: x * torch.rand(()).item(),
        lambda x: torch.tensor(x.tolist()),
        lambda x: torch.tensor(x.numpy()),
    ],
    ids=["item", "float", "bool", "int", "equal", "random", "tolist", "numpy"],
)
def test_a_number_read_from_what_varies_is_refused(read, x):
    with pytest.raises(NotRecordable):
        Recording(lambda: [read(x)], [x])
    assert _get_current_dispatch_mode() is None


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: x.round().unique(),
    ],
)
def test_a_shape_that_varies_is_refused(choose, x):
    with pytest.raises(NotRecordable):
        Recording(lambda: [choose(x)], [x])


def test_a_constant_mask_is_no_shape_that_varies(x):
    assert_plays(lambda: [x[CONSTANT > 0]], x)


@pytest.mark.parametrize("constant", [CONSTANT[1], torch.ones(4)])
def test_a_number_read_from_a_constant_is_fine(constant, x):
    def function():
        factor = constant.sum().item() + float(constant.exp().max())
        return [x * factor if bool(constant.any()) else x, x[: constant.numel()]]

    assert_plays(function, x)


def test_an_exception_ends_the_recording(x):
    def fails():
        torch.exp(x)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Recording(fails, [x])
    assert _get_current_dispatch_mode() is None
    assert_plays(lambda: [x.exp()], x)


# --- beside others ---


def test_two_recordings_do_not_disturb_each_other(x, y):
    y.requires_grad_()

    def gradient():
        return torch.autograd.grad((x * y.exp()).sum(), y)

    one, other = Recording(lambda: [x * 2], [x]), Recording(gradient, [x, y])
    again = Recording(lambda: [x * 2], [x])
    for _ in range(3):
        kept = one()[0]
        copy = kept.clone()
        assert_bits(other(), gradient())
        assert_bits(again(), [x * 2])
        assert torch.equal(kept, copy)
        change(x, y)
        assert_bits(one(), [x * 2])


def test_playing_needs_no_gradients(x):
    x.requires_grad_()
    recording = Recording(lambda: [x.exp()], [x])
    assert recording.first[0].requires_grad
    assert not recording()[0].requires_grad


def test_the_function_is_called_once(x):
    calls = []

    def function():
        calls.append(1)
        return [x + 1]

    recording = Recording(function, [x])
    recording()
    assert calls == [1]


@pytest.mark.slow
def test_a_fit_does_not_load_torchs_compiler():
    """torch._dynamo and SymPy take as long to import as a fit of a small model takes."""
    code = """
        import sys
        from pyro_pmf import MAP, PMF, VI, fit
        from pyro_pmf.datasets import simulate
        train = simulate(PMF(1), 30, 25, 300, seed=0)[0]
        methods = VI(max_steps=5, learn_scales=None), MAP(max_steps=5, learn_scales=None)
        posteriors = [fit(PMF(0), train, method, progress=False) for method in methods]
        posteriors[0].predict(train)
        fit(PMF(1), train, VI(max_steps=2, batches=2, learn_scales=None), progress=False)
        print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
    """
    code = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
