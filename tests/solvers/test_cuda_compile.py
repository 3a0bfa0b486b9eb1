"""The kernels compile for a Hopper GPU without one: Triton brings NVIDIA's assembler. What they compute is not run."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from krylearn.solvers.kernels import cuda, cuda_transfer, cuda_vectors

def compiled(kernel, types, **constants):
    names, types = kernel.arg_names, iter(types.split())
    signature = {name: "constexpr" if name in constants else next(types) for name in names}
    aligned = {(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if name not in constants}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, len(made.asm["cubin"]), any(wide in made.asm["ptx"] for wide in (".v4.b32", ".v2.b64")))

f, d, u = "*fp32 ", "*fp64 ", "*u8 "
size, tile = "i32 i32 i32", {"R": 8, "Z": 128}
for cells in (False, True):
    w = lambda t: u + t + t + u if cells else 4 * t
    compiled(cuda._apply_dot, w(d) + d + d + d + size, CELLS=cells, **tile)
    compiled(cuda._smooth, w(f) + u + 3 * f + d + size, CELLS=cells, OMEGA=0.57, DOT=True, **tile)
    compiled(cuda._smooth_from_zero, w(f) + u + f + f + size, CELLS=cells, **tile)
    compiled(cuda._residual, w(f) + 3 * f + size, CELLS=cells, **tile)
factors = dict(FX=2, FY=1, FZ=2, WX=True, WY=False, WZ=False)
compiled(cuda_transfer._restrict, f + u + f + 6 * "i32 ", R=1, Z=128, DX=1, DY=0, DZ=1, **factors)
compiled(cuda_transfer._prolong_add, f + u + u + f + 5 * "i32 ", **factors, **tile)
compiled(cuda_transfer._multiply, 3 * f + "i32", M=128)
compiled(cuda_vectors._finish_rz, d + d + "i32 " + d, HAVE=True, B=1024)
compiled(cuda_vectors._finish_pap, d + d + "i32", SCALED=True, B=1024)
compiled(cuda_vectors._finish_rr, d + d + "i32", FIRST=True, SCALED=True, B=1024)
compiled(cuda_vectors._dot, d + f + d + "i32", B=1024)
compiled(cuda_vectors._scaled_copy, d + f + d + "i32", B=1024)
compiled(cuda_vectors._direction, d + f + d + "i32", B=1024)
compiled(cuda_vectors._update_residual, d + d + f + d + d + "i32", SCALED=True, B=1024)
compiled(cuda_vectors._advance, d + d + d + "i32", B=1024)
"""


def test_every_kernel_compiles_for_hopper_and_loads_sixteen_bytes(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    program = tmp_path / "program.py"  # Triton reads the source of what it compiles from files
    program.write_text(PROGRAM)
    run = subprocess.run([sys.executable, "-W", "ignore", program], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    kernels = [line.split() for line in run.stdout.splitlines()]
    assert len(kernels) == 19
    narrow = {name for name, _, wide in kernels if wide == "False"}
    assert not narrow & {"_apply_dot", "_smooth", "_smooth_from_zero", "_residual"}
