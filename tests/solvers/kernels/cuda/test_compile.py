"""The kernels compile for a Hopper GPU without one: Triton brings NVIDIA's assembler. What they compute is not run."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is for Linux: pip install krylearn[cuda]")

from krylearn.solvers.kernels.cuda import small_levels

PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from krylearn.solvers.kernels.cuda import formats as cuda_codes, small_levels as cuda_tail, smoothing as cuda
from krylearn.solvers.kernels.cuda import transfer as cuda_transfer, vectors as cuda_vectors
from krylearn.solvers.multigrid.setup_cuda import build as cuda_setup, coarse_level as cuda_coarse
from krylearn.solvers.multigrid.setup_cuda import fine_level as cuda_fine, medium as cuda_medium
from krylearn.solvers.kernels.cuda.formats import CODES, LEVEL, STORED, TABLE

def compiled(kernel, types, warps=4, **constants):
    names, types = kernel.arg_names, iter(types.split() if isinstance(types, str) else types)
    signature = {name: "constexpr" if name in constants else next(types) for name in names}
    plain = [k for k, kind in enumerate(signature.values()) if isinstance(kind, str) and kind != "constexpr"]
    aligned = {(k,): [["tt.divisibility", 16]] for k in plain}
    values = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    wide = any(wide in made.asm["ptx"] for wide in (".v4.b32", ".v2.b64"))
    print(kernel.__name__, len(made.asm["cubin"]), wide, made.asm["ptx"].count("st.local"))

f, d, u, h, i16, i32 = "*fp32 ", "*fp64 ", "*u8 ", "*bf16 ", "*i16 ", "*i32 "
size, coarse, tile = "i32 i32 i32 ", "i32 i32 ", {"R": 8, "Z": 128}
outer = {STORED: 4 * d, CODES: i16 + 3 * d}  # without damping
level = {LEVEL: 4 * h, TABLE: "*u16 " + f + i32 + f}
damping = {LEVEL: h, TABLE: f}
for form, w in outer.items():
    compiled(cuda._apply_dot, w + d + d + d + d + size, FORM=form, **tile)
factors = dict(FX=2, FY=1, FZ=2, WX=True, WY=False, WZ=False)
for form, w in level.items():
    compiled(cuda._correct, w + f + f + d + size, FORM=form, **tile)
    w += damping[form]
    name, a = (w.split()[0] + " "), (u if form == LEVEL else i32)
    compiled(cuda._relax, w + f + f + d + size, FORM=form, OMEGA=0.57, **tile)
    donors = dict(R=1, Z=128, DX=1, DY=0, DZ=1)
    compiled(cuda_transfer._restrict, name + f + a + f + d + size + size, FORM=form, **donors, **factors)
    compiled(cuda_transfer._prolong, name + f + a + f + d + coarse + size, FORM=form, **factors, **tile)
    types = w + f + a + 3 * f + d + d + coarse + size
    compiled(cuda_transfer._finish, types, FORM=form, DOT=True, **factors, **tile)
compiled(cuda_transfer._multiply, 3 * f + d + "i32", M=128)
compiled(cuda_codes._encode, 7 * d + d + i16 + i32 + size, **tile)
op, work, sizes = ("*bf16",) * 5 + ("*u8",), ("*fp32",) * 4, (("i32",) * 3,) * 2
types = [(op,), (work,), sizes, "*fp32", "*fp32", "*fp32", "*fp64", "i32"]
kinds = (cuda_tail.Kind(2, 2, 2, False, False, True, 1, 1, 1, LEVEL, 64, 8),)
if cuda_tail.SUPPORTED:
    compiled(cuda_tail._small_levels, types, warps=16, LEVELS=1, KINDS=kinds, TILES=((16, 4),), M=64)
lanes, net = {"B": 128}, {"B": 128, "H": 16}
for cells in (True, False):
    m, kind = (i16 if cells else f) + 2 * f, {"CELLS": cells}
    listed = dict(LISTED=cells, **kind, **net)
    compiled(cuda_fine._paths, m + f + 4 * "i32 ", **kind, **lanes)
    compiled(cuda_fine._damping, m + 2 * f + i32 + u + 8 * "i32 ", **listed)
    compiled(cuda_fine._weights, m + 3 * f + i32 + u + 12 * "i32 ", **listed)
    compiled(cuda_coarse._sums, m + 7 * f + 15 * "i32 ", **kind, **lanes)
compiled(cuda_coarse._diagonal, 4 * f + 4 * "i32 ", **lanes)
compiled(cuda_coarse._grounds, 8 * f + 4 * "i32 ", **net)
compiled(cuda_coarse._links, 8 * f + 10 * "i32 ", **net)
sides = dict(FX=2, FY=2, FZ=2, WX=True, WY=False, WZ=False)
compiled(cuda_medium._quiet, i16 + u + "i32 " + size + "i32", **sides, **lanes)
compiled(cuda_setup._pack, 3 * f + u + 5 * h + "i32 " + size, **lanes)
compiled(cuda_vectors._finish_rz, 3 * d + "i32 " + d, HAVE=True, B=1024)
compiled(cuda_vectors._finish_pap, 3 * d + "i32", SCALED=True, B=1024)
compiled(cuda_vectors._finish_rr, 3 * d + "i32", FIRST=False, SCALED=True, B=1024)
compiled(cuda_vectors._dot, d + f + d + d + "i32", B=1024)
compiled(cuda_vectors._scaled_copy, d + f + d + "i32", B=1024)
compiled(cuda_vectors._direction, d + f + d + d + "i32", B=1024)
compiled(cuda_vectors._update_residual, d + d + f + d + d + d + "i32", SCALED=True, B=1024)
compiled(cuda_vectors._advance, d + d + d + d + "i32", B=1024)
"""


def test_every_kernel_compiles_for_hopper_and_loads_sixteen_bytes(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    program = tmp_path / "program.py"  # Triton reads the source of what it compiles from files
    program.write_text(PROGRAM)
    run = subprocess.run([sys.executable, "-W", "ignore", program], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    kernels = [line.split() for line in run.stdout.splitlines()]
    assert len(kernels) == 35 + small_levels.SUPPORTED
    narrow = {name for name, _, wide, _ in kernels if wide == "False"}
    assert not narrow & {"_apply_dot", "_relax", "_correct", "_finish"}
    assert {name for name, *_, spilled in kernels if int(spilled)} == set()
