"""Solves before there are compiled kernels: the same promise, another process compiles, and it ends with its parent."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from krylearn.pde import Poisson
from krylearn.pde.kernel_cache import cache_folder
from krylearn.solvers import NeuralMultigrid, cg, solve, solve_matrix
from krylearn.solvers.multigrid import background, readiness
from krylearn.solvers.multigrid.preconditioner import MEANWHILE
from scipy.sparse import csr_array

NOTE = "solved by torch: the kernels were being compiled"


@pytest.fixture
def without_kernels(monkeypatch):
    """A machine on which nothing has been compiled, and on which another process never gets on with it."""
    started = []
    monkeypatch.delenv("KRYLEARN_WAIT_FOR_KERNELS", raising=False)
    monkeypatch.setattr(readiness, "_KNOWN", set())
    monkeypatch.setattr(readiness, "_read_mark", lambda kind, step: False)
    monkeypatch.setattr(background, "compile_meanwhile", lambda kind: started.append(kind) or True)
    monkeypatch.setattr(background, "help_with", lambda kind: None)
    return started


def medium(n=9):
    return Poisson.from_coefficients(np.exp(np.random.default_rng(41).standard_normal((n, n, n))))


def cells(n=9):
    codes = np.ones((n, n, n), dtype=np.int64)
    codes[2:4, 2:5, 3:6] = 0
    return Poisson.from_cells(codes)  # closed: constants are its null space


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("make", [medium, cells, lambda: Poisson.from_coefficients(np.ones((30, 20)))])
def test_the_promise_is_the_same(without_kernels, residual_norm, make, dtype):
    A = make()
    b = np.random.default_rng(43).standard_normal(A.shape[0])
    b = (A.matrix() @ b).astype(dtype)
    x, info = cg(A, b, rtol=1e-5)
    assert info == 0
    assert NOTE in info.notes
    assert residual_norm(A, b, x) <= 1.001e-5 * np.linalg.norm(b)
    assert abs(info.true_residual - residual_norm(A, b, x)) <= 1e-2 * info.true_residual
    assert without_kernels


@pytest.mark.parametrize("name", [None, "network", "geometric", "resistor", "tuned"])
def test_steps_are_those_of_the_compiled_kernels(without_kernels, name):
    A = medium(17)
    b = np.random.default_rng(47).standard_normal(A.shape[0])
    x, info = cg(A, b, rtol=1e-8, M=name)
    y, compiled = cg(A, b, rtol=1e-8, M=NeuralMultigrid(A, name or "network"))
    assert NOTE in info.notes
    assert NOTE not in compiled.notes
    assert abs(info.iterations - compiled.iterations) <= 1
    assert np.linalg.norm(x - y) <= 1e-6 * np.linalg.norm(y)


def test_every_entry_that_chooses_by_itself_is_served(without_kernels):
    A = medium(36)  # a smaller one is solved with the diagonal
    b = np.ones(A.shape[0])
    assert NOTE in solve_matrix(csr_array(A.matrix()), b)[1].notes
    assert np.linalg.norm(A @ solve(A, b) - b) <= 1e-5 * np.linalg.norm(b)
    _, info = cg(A, np.stack([b, 2 * b]))
    assert all(NOTE in each.notes for each in info.each)
    assert set(without_kernels) == {"medium"}


def test_nothing_of_a_solve_in_torch_asks_for_compiled_steps(without_kernels, monkeypatch):
    from krylearn.solvers.kernels import choice

    def refuse(*arguments):
        raise AssertionError("a compiled kernel was asked for")

    monkeypatch.setattr(choice, "fused_cg_steps", refuse)
    monkeypatch.setattr(choice.FusedProduct, "__call__", refuse)
    monkeypatch.setattr(choice.FusedProduct, "residual", refuse)
    A = medium()
    assert cg(A, np.ones(A.shape[0]))[1] == 0


def test_the_kernels_take_over_when_they_are_there(without_kernels, monkeypatch):
    A = medium()
    b = np.ones(A.shape[0])
    first, again = cg(A, b)[1], cg(A, b)[1]
    assert NOTE in again.notes
    assert first.setup_seconds > 0
    assert again.setup_seconds == 0  # one set-up serves all until then
    monkeypatch.setattr(readiness, "_read_mark", lambda kind, step: True)
    after, last = cg(A, b)[1], cg(A, b)[1]
    assert NOTE not in after.notes
    assert last.setup_seconds == 0
    assert not [name for name in A.cache if "without kernels" in name]  # nor is its memory kept


@pytest.mark.parametrize("case", ["switch", "deterministic", "large", "named pieces", "nobody compiles"])
def test_who_waits_for_the_kernels(without_kernels, monkeypatch, case):
    import torch

    A = medium()
    if case == "switch":
        monkeypatch.setenv("KRYLEARN_WAIT_FOR_KERNELS", "1")
    if case == "deterministic":
        torch.use_deterministic_algorithms(True)
    if case == "large":
        monkeypatch.setattr("krylearn.solvers.multigrid.preconditioner.MEANWHILE", 9**3 - 1)
        assert MEANWHILE >= 64**3
    if case == "nobody compiles":
        monkeypatch.setattr(background, "compile_meanwhile", lambda kind: False)
    try:
        _, info = cg(A, np.ones(A.shape[0]), M="pieces" if case == "named pieces" else None)
    finally:
        torch.use_deterministic_algorithms(False)
    assert info == 0
    assert NOTE not in info.notes
    assert not without_kernels


@pytest.mark.parametrize("case", ["many steps", "few allowed", "callback"])
def test_a_solve_that_is_hard_for_torch_is_one_of_the_kernels(without_kernels, monkeypatch, case):
    A, seen = medium(17), []
    b = np.random.default_rng(53).standard_normal(A.shape[0])
    _, expected = cg(A, b, rtol=1e-9, M=NeuralMultigrid(A))
    options = {"callback": seen.append} if case == "callback" else {"maxiter": 99}
    if case == "many steps":
        monkeypatch.setattr("krylearn.solvers.krylov.conjugate_gradients.MEANWHILE_STEPS", 2)
    if case == "few allowed":  # what fails in torch is tried with the kernels, and fails as it would have
        options = {"maxiter": 2}
    _, info = cg(A, b, rtol=1e-9, **options)
    assert NOTE not in info.notes
    if case == "few allowed":
        assert (int(info), info.iterations, info.reason.name) == (2, 2, "MAXITER")
    else:
        assert info == 0
        assert info.residuals == expected.residuals
    if case == "callback":
        assert len(seen) == info.iterations


def test_no_kernel_is_waited_for_where_none_would_help(without_kernels):
    A = medium()
    b = np.ones(A.shape[0])
    b[3] = np.nan
    _, info = cg(A, b)
    assert info.reason.name == "NON_FINITE"
    assert int(info) == 10 * A.unknowns
    assert NOTE in info.notes


# --- the mark that says what is there ---------------------------------------------------------------------------------
def test_a_mark_is_of_one_kind_one_step_and_one_source(tmp_path, monkeypatch):
    monkeypatch.setattr(readiness, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(readiness, "_KNOWN", set())
    assert not readiness.is_ready("medium", ("network",))
    readiness.note_ready("medium", "network")
    for known in ({("medium", "network")}, set()):  # in this process, and in the next
        monkeypatch.setattr(readiness, "_KNOWN", known)
        assert readiness.is_ready("medium", ("network",))
        assert not readiness.is_ready("medium", ("survey", "network"))
        assert not readiness.is_ready("voxels", ("network",))
    (mark,) = tmp_path.iterdir()
    assert mark.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(readiness, "_KNOWN", set())
    monkeypatch.setattr(readiness, "fingerprint", lambda: b"another source")
    assert not readiness.is_ready("medium", ("network",))
    readiness.note_ready("medium", "network")
    assert list(tmp_path.iterdir()) == [mark]  # replaced


DAMAGES = [lambda f: f.write_bytes(b"\0" * 99), lambda f: f.chmod(0o666), lambda f: f.unlink()]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_mark_is_none(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(readiness, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(readiness, "_KNOWN", set())
    readiness.note_ready("codes", "survey")
    monkeypatch.setattr(readiness, "_KNOWN", set())
    damage(next(tmp_path.iterdir()))
    assert not readiness.is_ready("codes", ("survey",))


def test_without_a_folder_a_process_knows_what_it_has_compiled_itself(monkeypatch):
    monkeypatch.setattr(readiness, "cache_folder", lambda: None)
    monkeypatch.setattr(readiness, "_KNOWN", set())
    assert not readiness.is_ready("codes", ("survey",))
    readiness.note_ready("codes", "survey")
    assert readiness.is_ready("codes", ("survey",))


# --- the other process ------------------------------------------------------------------------------------------------
SLEEPER = """
import sys, time
sys.path[:] = {path!r}
from krylearn.solvers.multigrid import background
background.end_with_parent()
with background.only_one({name!r}):
    time.sleep(120)
"""


@pytest.fixture
def sleeper(monkeypatch):
    """The other process does not get to its end, for a kind that no solve has."""
    monkeypatch.setattr(background, "PROGRAM", SLEEPER)
    monkeypatch.setattr(background, "_PROCESSES", {})
    yield f"test-{os.getpid()}"
    background.end_all()
    (cache_folder() / f"compiling-test-{os.getpid()}.lock").unlink(missing_ok=True)


needs_cache = pytest.mark.skipif(cache_folder() is None, reason="no folder for compiled functions")


def eventually(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@needs_cache
def test_one_process_compiles_for_all_and_it_is_said_once(sleeper, capsys):
    assert background.compile_meanwhile(sleeper)
    process = background._PROCESSES[sleeper]
    assert background.compile_meanwhile(sleeper)
    assert background._PROCESSES == {sleeper: process}
    assert capsys.readouterr().err.count("compiled in the background") == 1
    assert eventually(lambda: background._somebody_compiles(sleeper))
    background._PROCESSES.clear()  # as another process of this user sees it: it starts none of its own
    try:
        assert background.compile_meanwhile(sleeper)
        assert not background._PROCESSES
    finally:
        background._PROCESSES[sleeper] = process


@needs_cache
def test_it_ends_with_this_process(sleeper):
    background.compile_meanwhile(sleeper)
    process = background._PROCESSES[sleeper]
    background.end_all()
    assert process.returncode is not None


@needs_cache
def test_a_process_that_fails_is_not_tried_again(sleeper, monkeypatch):
    monkeypatch.setattr(background, "PROGRAM", "raise SystemExit(3)")
    assert background.compile_meanwhile(sleeper)
    background._PROCESSES[sleeper].wait(60)
    assert not background.compile_meanwhile(sleeper)
    assert not background.compile_meanwhile(sleeper)
    background.wait_for(sleeper, ("survey",))  # for nobody


@pytest.mark.parametrize("case", ["no folder", "embedded", "frozen", "cannot start"])
def test_where_no_process_can_be_started_the_caller_compiles(sleeper, monkeypatch, case):
    if case == "no folder":
        monkeypatch.setattr(background, "cache_folder", lambda: None)
    if case == "embedded":
        monkeypatch.setattr(sys, "executable", "")
    if case == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    if case == "cannot start":
        monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert not background.compile_meanwhile(sleeper)


@needs_cache
def test_another_process_helps_only_where_there_is_something_to_do(sleeper, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(readiness, "_KNOWN", {("ready", "network")})
    background.help_with("ready")
    monkeypatch.setattr(background, "_is_helper", True)
    background.help_with(sleeper)
    monkeypatch.setattr(background, "_is_helper", False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    background.help_with(sleeper)
    assert not background._PROCESSES
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    background.help_with(sleeper)
    background.help_with("other")  # one is enough
    assert set(background._PROCESSES) == {f"{sleeper}-cycle"}
    background.end_all()
    (cache_folder() / f"compiling-{sleeper}-cycle.lock").unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["medium", "codes", "voxels"])
def test_the_helper_compiles_what_a_solve_will_ask_for(kind):
    from krylearn.solvers.kernels.cpu import smoothing, transfer, vectors
    from krylearn.solvers.multigrid import warmup

    kernels = [getattr(module, name) for module in (smoothing, transfer, vectors) for name in dir(module)]
    kernels = [each for each in kernels if hasattr(each, "overloads")]
    warmup.compile_kernels(kind)
    before = [len(each.overloads) for each in kernels]
    assert sum(before) >= 10
    warmup.compile_cycle(kind)
    assert [len(each.overloads) for each in kernels] == before


PARENT = """
import os, signal, sys, time
from krylearn.solvers.multigrid import background
background.PROGRAM, kind = sys.argv[1], sys.argv[2]
assert background.compile_meanwhile(kind)
process = background._PROCESSES[kind]
end = time.monotonic() + 60
while not background._somebody_compiles(kind) and time.monotonic() < end:
    time.sleep(0.05)
print(process.pid, flush=True)
if sys.argv[3] == "fork":  # a child that ends as usual must not end what its parent has started
    child = os.fork()
    if child == 0:
        assert not background._PROCESSES
        sys.exit(0)
    os.waitpid(child, 0)
    print(process.poll(), flush=True)
if sys.argv[3] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_cache
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="looks for a process as Linux shows it")
@pytest.mark.parametrize("end", ["usual", "killed", "fork"])
def test_no_orphan_is_left(sleeper, end):
    command = [sys.executable, "-W", "ignore", "-c", PARENT, SLEEPER, sleeper, end]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == (-9 if end == "killed" else 0), done.stderr
    pid, *rest = done.stdout.split()
    assert eventually(lambda: not is_alive(pid))
    assert rest == (["None"] if end == "fork" else [])


FIRST = """
import json, sys
import numpy as np
from krylearn.pde import Poisson
from krylearn.solvers import cg
from krylearn.solvers.multigrid import background
background.PROGRAM = sys.argv[1]
A = Poisson.from_coefficients(np.exp(np.random.default_rng(0).standard_normal((24, 24, 24))))
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    info = cg(A, np.ones(24**3))[1]
names = [each.data["dispatcher"].py_func.__name__ for _, each in recorder.buffer if each.is_start]
print(json.dumps([int(info), list(info.notes), names]))
"""


def test_a_first_solve_on_a_new_machine_compiles_next_to_nothing(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "KRYLEARN_WAIT_FOR_KERNELS"}
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", FIRST, SLEEPER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    failed, notes, names = json.loads(done.stdout)
    assert not failed
    assert NOTE in notes
    assert "compiled in the background" in done.stderr
    assert len(names) < 20, names  # a cycle and its set-up would be 200
