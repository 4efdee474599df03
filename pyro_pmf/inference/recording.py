"""A computation on tensors, recorded once and replayed.

A step of a fit is about a hundred small operations. On a hundred thousand ratings most of its time
goes to Python code that chooses them: Pyro's handlers, plates and distributions, and autograd. The
choice is the same at every step. So a recording stores the operations that reach torch's kernels,
gradients included, and replays them.

CUDA graphs do the same on a GPU. torch's ``make_fx`` records too, but loads torch's compiler at
its first call, which takes as long as a small fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_pmf.data.scratch import Scratch
from pyro_pmf.internals import QuietDispatchMode, is_mutable, storage_id, written_arguments

_FEW = 64  # numbers, which are kept in memory


class NotRecordable(RuntimeError):
    """Raised if Python reads a number out of a tensor that changes between runs."""


class Recording:
    """Record the tensor operations of a function, gradients included.

    Parameters
    ----------
    function : callable
        Function of no arguments that returns a sequence of tensors. It is called once.
    varying : sequence of Tensor
        Tensors whose values change in place between runs. Results that depend on none of them, nor
        on a random number, are computed once and kept.
    scratch : Scratch, optional
        Where these results are kept; in memory by default.

    Attributes
    ----------
    first : tuple of Tensor
        Results of the recorded run.
    is_random : bool
        Whether every run draws new random numbers.
    graph : torch.fx.Graph
        The replayed operations. ``print(recording.graph)`` shows them.
    inputs : list of Tensor
        Values of the graph's placeholders: given tensors and kept results.
    play : callable
        The graph as a function of the inputs.

    Raises
    ------
    NotRecordable
        If Python reads a number out of a varying tensor, as ``x.item()`` does: a recording cannot
        show how Python uses the number.
    """

    def __init__(
        self,
        function: Callable[[], Sequence[Tensor]],
        varying: Sequence[Tensor],
        scratch: Scratch | None = None,
    ) -> None:
        with _Recorder() as tape, _Reads(tape):
            self.first = tuple(function())
        self.is_random = any(call.is_random() for call in tape.calls)
        results = [tape.slot(result) for result in self.first]
        keep = (scratch or Scratch()).keep
        constants = _split_off_constants(tape, [tape.slot(tensor) for tensor in varying], keep)
        self.graph, inputs = _graph(tape.calls, constants, results)
        self.inputs = [constants[slot] for slot in inputs]
        self.play = fx.GraphModule(torch.nn.Module(), self.graph).forward
        if any(tensor.is_cuda for tensor in self.inputs):
            self.play = _one_launch(self.play, self.inputs)

    def __call__(self) -> tuple[Any, ...]:
        """Replay the operations on the current values of the tensors; results are overwritten."""
        with torch.no_grad():
            return self.play(*self.inputs)


@dataclass(frozen=True)
class _Slot:
    """Placeholder of a tensor among the arguments of a call."""

    number: int


@dataclass(frozen=True)
class _Call:
    """One operation; ``outputs`` has a slot for each result, or None if it is not a tensor."""

    function: Any
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[int | None]
    returns_many: bool
    shared: list[tuple[int, int]]  # (input, output) pairs that share memory
    shown: list[int]  # inputs whose values reach Python, as a number or a shape

    def inputs(self) -> Iterator[int]:
        yield from _slots((self.args, self.kwargs))

    def slots(self) -> Iterator[int]:
        yield from self.inputs()
        yield from (slot for slot in self.outputs if slot is not None)

    def is_random(self) -> bool:
        return torch.Tag.nondeterministic_seeded in self.function.tags

    def mutates(self) -> bool:
        return is_mutable(self.function)

    def written(self) -> Iterator[int]:
        for argument in written_arguments(self.function, self.args, self.kwargs):
            yield from _slots(argument)


class _Recorder(QuietDispatchMode):
    """Dispatch mode that records the calls that reach torch's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.given: dict[int, Tensor] = {}  # tensors that no recorded call made
        self.read: list[int] = []  # tensors that Python read without a kernel
        self._slots = WeakTensorKeyDictionary()
        self._n_slots = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs: list[Tensor] = []
        _replace((args, kwargs), Tensor, inputs.append)
        seen = _replace((args, kwargs), Tensor, lambda x: _Slot(self.slot(x)))
        result = func(*args, **kwargs)
        if args and _is_same(result, args[0]):  # detached, or expanded to its own shape
            self._slots[result] = self.slot(args[0])
            return result
        many = isinstance(result, list | tuple)
        outputs = [self._output(part) for part in (result if many else [result])]
        # Compare memory: the schema does not show that aten::_unsafe_view returns a view.
        parts = zip(outputs, result if many else [result], strict=True)
        shared = [
            (self.slot(x), slot)
            for slot, part in parts
            for x in inputs
            if slot is not None and storage_id(x) == storage_id(part)
        ]
        shown: list[Tensor] = []
        if None in outputs:
            shown = inputs
        elif torch.Tag.dynamic_output_shape in func.tags:
            masks = [x for x in inputs if x.dtype in (torch.bool, torch.uint8)]
            shown = masks if func is torch.ops.aten.index.Tensor else inputs
        read = [self.slot(x) for x in shown]
        self.calls.append(_Call(func, seen[0], seen[1], outputs, many, shared, read))
        return result

    def slot(self, tensor: Tensor) -> int:
        if tensor not in self._slots:
            self.given[self._new(tensor)] = tensor
        return self._slots[tensor]

    def _output(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        # A tensor written in place keeps its slot; a view of it has another.
        return self._slots[value] if value in self._slots else self._new(value)

    def _new(self, tensor: Tensor) -> int:
        self._slots[tensor] = self._n_slots
        self._n_slots += 1
        return self._slots[tensor]


class _Reads(TorchFunctionMode):
    """Function mode that notes the tensors whose numbers Python reads from memory."""

    def __init__(self, tape: _Recorder) -> None:
        super().__init__()
        self.tape = tape

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            self.tape.read.append(self.tape.slot(args[0]))
        return func(*args, **(kwargs or {}))


def _split_off_constants(
    tape: _Recorder, varying: list[int], keep: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """Remove the calls that do not vary from the tape; return the values of their slots."""
    varies = _varying_memory(tape, varying)
    if varies(tape.read):
        raise NotRecordable("tolist or numpy")
    constants: dict[int, Any] = dict(tape.given)
    left = []
    for call in tape.calls:
        if not varies(call.slots()):
            args, kwargs = _replace((call.args, call.kwargs), _Slot, lambda s: constants[s.number])
            result = call.function(*args, **kwargs)
            results = result if call.returns_many else [result]
            is_new = not (call.shared or call.mutates())  # of memory of its own
            for slot, value in zip(call.outputs, results, strict=True):
                if slot is not None:
                    constants[slot] = keep(value) if is_new and value.numel() > _FEW else value
        elif varies(call.shown):
            raise NotRecordable(str(call.function))
        else:
            left.append(call)
    tape.calls = left
    return constants


def _varying_memory(tape: _Recorder, varying: list[int]) -> Callable[[Iterable[int]], bool]:
    """Return a function that says whether any of some slots varies between runs."""
    calls = tape.calls
    memory: dict[int, int] = {}  # slots that share memory point to one of them

    def find(slot: int) -> int:
        while memory.setdefault(slot, slot) != slot:
            slot = memory[slot]
        return slot

    first: dict[int, int] = {}
    for slot, tensor in tape.given.items():
        memory[slot] = first.setdefault(storage_id(tensor), slot)
    changing = set(varying)
    for call in calls:
        outputs = [slot for slot in call.outputs if slot is not None]
        changing.update(call.written())
        for slot, output in call.shared:
            memory[find(output)] = find(slot)
        if call.is_random():
            changing.update(outputs)
    changing = {find(slot) for slot in changing}

    def varies(slots: Iterable[int]) -> bool:
        return any(find(slot) in changing for slot in slots)

    for call in calls:  # calls are in order: inputs precede outputs
        if varies(call.slots()):
            changing.update(find(slot) for slot in call.outputs if slot is not None)
    return varies


def _graph(
    calls: list[_Call], constants: dict[int, Tensor], results: list[int]
) -> tuple[fx.Graph, list[int]]:
    """Turn calls into a torch.fx graph; return it and the slots of its inputs."""
    needed, used = set(results), []
    for call in reversed(calls):
        if call.mutates() or needed.intersection(call.outputs):
            used.append(call)
            needed.update(call.inputs())
    graph = fx.Graph()
    inputs = sorted(needed.intersection(constants))
    nodes = {slot: graph.placeholder(f"given_{slot}") for slot in inputs}
    for call in reversed(used):
        args, kwargs = _replace((call.args, call.kwargs), _Slot, lambda s: nodes[s.number])
        node = graph.call_function(call.function, args, kwargs)
        for i, slot in enumerate(call.outputs):
            if slot is not None and not call.returns_many:
                nodes[slot] = node
            elif slot is not None and slot in needed:
                nodes[slot] = graph.call_function(getitem, (node, i))
    graph.output(tuple(nodes[slot] for slot in results))
    return graph, inputs


def _is_same(result: Any, argument: Any) -> bool:
    """Return whether two tensors have the same memory, dtype, shape and strides."""
    return (
        isinstance(result, Tensor)
        and isinstance(argument, Tensor)
        and result is not argument  # written in place
        and result.data_ptr() == argument.data_ptr() != 0
        and result.dtype == argument.dtype
        and result.shape == argument.shape
        and result.stride() == argument.stride()
        and (result.is_conj(), result.is_neg()) == (argument.is_conj(), argument.is_neg())
    )


def _one_launch(play: Callable[..., Any], inputs: list[Tensor]) -> Callable[..., Any]:
    """Capture all kernels in one CUDA graph, or return ``play`` if one cannot be captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):  # the first calls of a kernel set up state that cannot be captured
            play(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.no_grad(), torch.cuda.graph(graph):
            results = play(*inputs)
    except RuntimeError:
        return play

    def replay(*_: Tensor) -> Any:
        graph.replay()
        return results

    return replay


def _slots(arguments: Any) -> Iterator[int]:
    found: list[int] = []
    _replace(arguments, _Slot, lambda slot: found.append(slot.number))
    yield from found


def _replace(arguments: Any, kind: type, replacement: Callable[[Any], Any]) -> Any:
    """Replace objects of one type in nested tuples, lists and dicts."""
    if isinstance(arguments, kind):
        return replacement(arguments)
    if isinstance(arguments, tuple | list):
        return type(arguments)(_replace(x, kind, replacement) for x in arguments)
    if isinstance(arguments, dict):
        return {key: _replace(x, kind, replacement) for key, x in arguments.items()}
    return arguments
