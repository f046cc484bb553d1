"""The figures of the modelled GPU, an H100 SXM, and where each of them comes from."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..machines import machine_of

#: raised with every change that moves a time, so that predictions say what made them
VERSION = 1

H100 = machine_of("sm_90")
PROCESSORS = H100.multiprocessors
SHARED_BYTES = H100.shared * 1024  # of a multiprocessor; a program takes 1 KB more than it asks for
REGISTERS = H100.registers * 1024 // 4  # of 32 bits, of a multiprocessor
WARPS = 64  # most a multiprocessor holds (CUDA programming guide, compute capability 9.0)
PROGRAMS = 32  # most a multiprocessor holds


@dataclass(frozen=True)
class Hopper:
    """The figures of the modelled GPU, and what each of them goes by.
    ``given``: a data sheet or a measurement says so; ``guess``: nothing does; ``fitted``: chosen so that published
    times of other people's kernels come out (docs/simulator.md says which)."""

    clock_ghz: float = 1.755  # given: the boost clock of an H100 SXM under load; its highest is 1.98
    dram_bytes_per_us: float = 3.0e6  # given: what copies reach of the data sheet's 3.35 TB/s
    l2_bytes_per_clock: float = 38.8  # fitted: of one multiprocessor, when all read at once
    port_bytes_per_clock: float = 64.0  # given: between one multiprocessor and L2 (as A100's white paper)
    dram_latency: float = 560.0  # guess, of the usual size: clocks of a load that finds every queue empty
    l2_latency: float = 270.0  # guess, of the usual size
    l1_latency: float = 30.0  # given: Luo et al. 2024, table 3: 30 to 40 clocks
    program_start: float = 400.0  # guess: clocks before a program's first instruction
    launch_us: float = 2.5  # guess: of a launch, beside its programs
    matrix_slowdown: float = 1.45  # fitted: power lowers the clock while the tensor cores are busy
    matrix_queue: float = 2.0  # guess: products that may wait for a tensor core without holding up their warp
    matrix_shared: float = 0.5  # guess: share of a product's reads of shared memory that others wait for
    copy_clocks: float = 1.0  # fitted: of the load/store pipe, for each 128 bytes of an asynchronous copy
    clocks: float = 160_000.0  # how long the model runs before what is left is extrapolated

    def scaled(self, **factors: float) -> Hopper:
        """Parameters of the model with some of its figures multiplied, by name."""
        return Hopper(**{f.name: getattr(self, f.name) * factors.get(f.name, 1.0) for f in fields(self)})
