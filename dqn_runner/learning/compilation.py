"""Ahead-of-time compilation of a function of tensors, kept on disk for the runs that follow.

The function is traced once into a graph that holds its backward pass, optimiser and in-place
writes, and compiled by inductor into a library that is called without guards: for a small network
this costs a tenth of the eager update.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, fx

logger = logging.getLogger(__name__)


class CompilationError(Exception):
    """Compilation is not to be had here; the text says why in a line."""


def cache_dir() -> Path:
    """Where compiled functions are kept: `$XDG_CACHE_HOME/dqn_runner`, or under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dqn_runner"


def compile_ahead(
    function: Callable[..., Tensor], constants: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Callable[..., Tensor]:
    """`function(*constants, *inputs)`, which may write into its arguments, compiled.

    The result always works on `constants`; it is called with tensors like `inputs`. Raises
    CompilationError if there is no C++ compiler, or if it fails.
    """
    example = (*constants, *inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about its own deprecations
            graph = _trace(function, example)
            library = cache_dir() / f"{_fingerprint(graph, example)}.pt2"
            run = _load_or_compile(graph, example, library)
    except Exception as error:  # whatever the tracer, the compiler or the linker raise
        logger.debug("compilation failed", exc_info=True)
        raise CompilationError(_reason(error)) from error

    shapes = [tensor.shape for tensor in inputs]

    def compiled(*given: Tensor) -> Tensor:
        # The library itself checks nothing.
        if [tensor.shape for tensor in given] != shapes:
            raise ValueError(f"called with other shapes than it was compiled for, {shapes}")
        (output,) = run([*constants, *given])
        result: Tensor = output
        return result

    return compiled


def capture(
    function: Callable[..., Tensor], constants: Sequence[Tensor], inputs: Sequence[Tensor]
) -> Callable[..., Tensor]:
    """`function(*constants, *inputs)` compiled and captured in a CUDA graph.

    A call is one launch, without waiting. It always works on `constants`; what it is called with
    is copied over `inputs`. Raises CompilationError.
    """
    logger.info("compiling the network, which takes half a minute at first")
    example = (*constants, *inputs)
    try:
        step = torch.compile(_trace(function, example), fullgraph=True, dynamic=False)
        before = [tensor.clone() for tensor in example]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warms up, which changes the state
            for _ in range(3):
                step(*example)
        torch.cuda.current_stream().wait_stream(side)
        for tensor, value in zip(example, before, strict=True):
            tensor.copy_(value)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output: Tensor = step(*example)
    except Exception as error:  # whatever the tracer, the compiler or the driver raise
        logger.debug("capture failed", exc_info=True)
        raise CompilationError(_reason(error)) from error

    def replay(*given: Tensor) -> Tensor:
        for place, tensor in zip(inputs, given, strict=True):
            place.copy_(tensor, non_blocking=True)
        graph.replay()
        return output

    return replay


def _trace(function: Callable[..., Tensor], example: Sequence[Tensor]) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    # Fake tensors: shapes alone go through, so the example is not written into. Tensors that the
    # function holds by itself, such as a module's buffers, become constants of the graph.
    trace = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
    graph: fx.GraphModule = trace(*example)
    return graph


def _fingerprint(graph: fx.GraphModule, example: Sequence[Tensor]) -> str:
    """Names what the library depends on: the computation, torch, the machine and its threads."""
    constants = [value for value in vars(graph).values() if isinstance(value, Tensor)]
    parts = [
        graph.code,
        *(f"{c.dtype} {c.tolist()}" for c in [*constants, *graph.buffers()]),
        *(f"{t.dtype} {tuple(t.shape)} {t.stride()} {t.device}" for t in example),
        torch.__version__,
        platform.machine(),
        _processor(),
        str(torch.get_num_threads()),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({li for li in lines if li.startswith(("model name", "flags"))}))


def _load_or_compile(
    graph: fx.GraphModule, example: Sequence[Tensor], library: Path
) -> Callable[[list[Tensor]], list[Tensor]]:
    """The compiled graph in `library`, which the first of several processes makes for all."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError, RuntimeError):  # not there yet, or damaged
        return _load(library)
    with _alone(library.with_suffix(".lock")):
        with contextlib.suppress(OSError, RuntimeError):  # unless another has made it meanwhile
            return _load(library)
        logger.info("compiling the network, which takes half a minute once")
        return _load(_compile(graph, example, library))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes out, and say so if this one has to wait."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("waiting for another run, which compiles the same network")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load(library: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    if not library.exists():  # torch would take it for one of an older format, and say so
        raise FileNotFoundError(library)
    run: Callable[[list[Tensor]], list[Tensor]]
    run = torch._inductor.aoti_load_package(str(library)).loader.run
    return run


def _compile(graph: fx.GraphModule, example: Sequence[Tensor], library: Path) -> Path:
    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            result: Tensor = graph(*tensors)
            return result

    with torch.no_grad(), tempfile.TemporaryDirectory(dir=library.parent) as folder:
        program = torch.export.export(Module(), tuple(example), strict=False)
        partial = Path(folder) / library.name
        torch._inductor.aoti_compile_and_package(program, package_path=str(partial))
        os.replace(partial, library)
    return library


def _reason(error: Exception) -> str:
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler ({compiler})"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
