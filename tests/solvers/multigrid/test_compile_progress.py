import time

from krylearn.solvers.multigrid.compile_progress import announced


def test_silence_where_nothing_takes_long(capsys):
    with announced():
        pass
    assert capsys.readouterr().err == ""


def test_a_long_compilation_is_announced_and_its_end_too(capsys):
    import numba

    with announced(patience=0.05, between=0.05):
        time.sleep(0.3)
        numba.njit(lambda n: n + 1)(1)
    lines = capsys.readouterr().err.splitlines()
    assert "compiling kernels, once on this machine" in lines[0]
    assert "krylearn warmup" in lines[-1]


def test_a_closed_stderr_does_not_matter(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with announced(patience=0.01, between=0.01):
        time.sleep(0.1)
