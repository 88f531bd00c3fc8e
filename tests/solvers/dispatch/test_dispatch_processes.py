"""A pool of processes: killed workers are replaced, and no process or shared memory is left, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dispatch_tasks
import numpy as np
import psutil
import pytest

from problems import BlockProblem
from solvers import OptionError, SolverError, get_solver
from solvers.dispatch import Processes, WorkerLost, base, parcels
from solvers.run import cpu_threads

SCRIPT = Path(__file__).resolve().parents[2] / "run_dispatch_to_kill.py"

SHARED_MEMORY = Path("/dev/shm")

needs_shm = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="shared memory is not shown as files here")


def segments(pid: int | None = None) -> list[str]:
    """Shared memory of a process, by default this one."""
    return [path.name for path in SHARED_MEMORY.glob(f"icbs_{pid or os.getpid()}_*")]


def problems(count: int = 4, n: int = 400) -> list[BlockProblem]:
    rng = np.random.default_rng(3)
    return [BlockProblem(rng.standard_normal((n, n)), cardinality=n // 4) for _ in range(count)]


def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"the condition did not hold within {seconds:g} s"
        time.sleep(0.02)


# Lost workers


def test_a_killed_worker_is_replaced_and_its_task_restarted(tmp_path: Path) -> None:
    with Processes(workers=2) as dispatch:
        results = dict(dispatch.map(dispatch_tasks.die_once, [(str(tmp_path), x) for x in range(8)]))
        assert (tmp_path / "begun").exists()
        assert results == {x: x * x for x in range(8)}


def test_a_task_that_kills_every_worker_ends_in_a_clear_error() -> None:
    with Processes(workers=1, retries=1) as dispatch:
        with pytest.raises(WorkerLost, match="task 0 lost its worker 2 times, at last by signal SIGKILL"):
            list(dispatch.map(dispatch_tasks.die, [0]))
        assert dict(dispatch.map(dispatch_tasks.square, [7])) == {0: 49}


def test_idle_workers_that_are_killed_are_replaced_too() -> None:
    with Processes(workers=2, retries=0) as dispatch:  # no task runs, so none is lost
        pids = {pid for _, (pid, _, _) in dispatch.map(dispatch_tasks.whereabouts, range(6))}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(one.process.is_alive() for one in dispatch._pool if one.process.pid in pids))
        assert dict(dispatch.map(dispatch_tasks.square, range(5))) == {x: x * x for x in range(5)}


@needs_shm
def test_solved_problems_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_HELD", 2)
    solver, blocks, most = get_solver("sa?restarts=1&sweeps=1"), problems(9, 130), 0

    def count() -> bool:
        nonlocal most
        most = max(most, len(segments()))
        return False

    with Processes(workers=2) as dispatch:
        answers = dispatch.solve(solver, blocks, seed=5, stop=count)
        assert segments() == []
    assert 0 < most <= 2 * (2 + 4)  # a matrix and its linear terms each: `_HELD` problems, and two tasks per worker
    alone = solver.solve_many(blocks, seed=5)
    assert [a.record.energy.tolist() for a in answers] == [a.record.energy.tolist() for a in alone]


@needs_shm
def test_a_fork_that_exits_frees_no_shared_memory() -> None:
    program = (
        "import os, numpy as np\n"
        "from solvers.dispatch import Processes\n"
        "dispatch = Processes(workers=1)\n"
        "handle = dispatch.share({'array': np.ones(100_000)})\n"
        "child = os.fork()\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
        "    print(len([f for f in os.listdir('/dev/shm') if f.startswith(f'icbs_{os.getpid()}_')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "1\n"


@needs_shm
def test_answers_are_the_same_after_a_worker_is_killed_and_no_memory_is_left() -> None:
    solver, blocks = get_solver("sa?restarts=4&sweeps=2000"), problems()
    alone = solver.solve_many(blocks, seed=5)
    with Processes(workers=2) as dispatch:
        dispatch.solve(solver, blocks[:2], seed=0)  # starts the workers
        children = psutil.Process().children()
        killed: list[int] = []

        def kill_one() -> bool:
            workers = [child for child in children if child.is_running() and child.cpu_times().user > 0.1]
            if segments() and workers and not killed:
                os.kill(workers[-1].pid, signal.SIGKILL)
                killed.append(workers[-1].pid)
            return False

        answers = dispatch.solve(solver, blocks, seed=5, stop=kill_one)
        assert killed
        assert segments() == []
    for answer, other in zip(answers, alone, strict=True):
        assert np.array_equal(answer.record.sample, other.record.sample)
        assert np.array_equal(answer.record.energy, other.record.energy)


# Errors


def test_an_error_has_the_workers_traceback_as_a_note() -> None:
    with Processes(workers=1) as dispatch, pytest.raises(ValueError, match="task 2 is refused") as caught:
        list(dispatch.map(dispatch_tasks.refuse, [2]))
    assert "in refuse" in "".join(caught.value.__notes__)


def test_an_error_that_cannot_be_pickled_is_reported_by_name() -> None:
    with Processes(workers=1) as dispatch, pytest.raises(SolverError, match="OddError: 5 is odd"):
        list(dispatch.map(dispatch_tasks.refuse_oddly, [5]))


def test_an_error_without_a_text_does_not_end_its_worker() -> None:
    with Processes(workers=1) as dispatch, pytest.raises(SolverError, match="WithoutText: its text could not be made"):
        list(dispatch.map(dispatch_tasks.refuse_without_text, [1]))


def test_tasks_that_cannot_be_pickled_are_refused_with_the_reason() -> None:
    endless: list[Any] = []
    for _ in range(100_000):
        endless = [endless]
    with Processes(workers=1) as dispatch:
        with pytest.raises(OptionError, match="cannot be sent to another process"):
            list(dispatch.map(dispatch_tasks.square, [endless]))  # type: ignore[list-item]
        with pytest.raises(OptionError, match="cannot be sent to another process"):
            list(dispatch.map(lambda x: x, [1]))
        with pytest.raises(OptionError, match="refuses to be pickled"):
            list(dispatch.map(dispatch_tasks.square, [dispatch_tasks.Unpicklable()]))  # type: ignore[list-item]
        with pytest.raises(TypeError, match="refuses to be pickled"):
            list(dispatch.map(dispatch_tasks.return_unpicklable, [1]))


def test_a_pool_does_one_piece_of_work_at_a_time() -> None:
    with Processes(workers=1) as dispatch:
        first = dispatch.map(dispatch_tasks.square, range(3))
        next(first)
        with pytest.raises(SolverError, match="one piece of work at a time"):
            next(dispatch.map(dispatch_tasks.square, range(3)))


# Shared memory


@needs_shm
def test_shared_arrays_are_sent_once_read_only_and_freed() -> None:
    array = np.random.default_rng(0).standard_normal((50_000, 4))
    array.flags.writeable = False
    with Processes(workers=2) as dispatch:
        first, second = dispatch.share({"array": array, "of": 1}), dispatch.share({"array": array, "of": 2})
        assert first.nbytes > array.nbytes
        assert len(segments()) == 1  # one copy for both handles
        sums = dict(dispatch.map(dispatch_tasks.total, [(first, 0), (second, 1)]))
        assert sums == {0: (float(array[:, 0].sum()), False), 1: (float(array[:, 1].sum()), False)}
        first.release()
        assert len(segments()) == 1
        second.release()
        assert segments() == []
        with pytest.raises(SolverError, match="released"):
            first.get()


@needs_shm
def test_arrays_that_may_change_are_copied_each_time() -> None:
    array = np.zeros((50_000, 4))
    with Processes(workers=1) as dispatch:
        for value in (1.0, 2.0):
            array[:] = value
            handle = dispatch.share({"array": array})
            assert dict(dispatch.map(dispatch_tasks.total, [(handle, 0)])) == {0: (value * 50_000, False)}


@needs_shm
def test_workers_unmap_released_memory() -> None:
    with Processes(workers=1) as dispatch:
        for value in range(3):
            handle = dispatch.share({"array": np.full((200_000, 2), float(value))})
            assert dict(dispatch.map(dispatch_tasks.total, [(handle, 0)])) == {0: (value * 200_000.0, False)}
            handle.release()
        assert dict(dispatch.map(dispatch_tasks.square, [1])) == {0: 1}
        (pid,) = {pid for _, (pid, _, _) in dispatch.map(dispatch_tasks.whereabouts, [0])}
        assert f"icbs_{os.getpid()}" not in Path(f"/proc/{pid}/maps").read_text()


@needs_shm
def test_missing_memory_raises_instead_of_killing_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parcels.os, "posix_fallocate", refused)
    with Processes(workers=1) as dispatch, pytest.raises(SolverError, match=r"no room for 2 MB.*--shm-size"):
        dispatch.share(np.zeros(250_000))
    assert segments() == []


def test_large_results_are_returned() -> None:
    with Processes(workers=2) as dispatch:
        results = dict(dispatch.map(dispatch_tasks.big, range(4)))
    assert all((results[x] == x).all() and results[x].flags.writeable for x in range(4))


# Workers


def test_workers_use_no_more_threads_than_they_have() -> None:
    before = dict(os.environ)
    with Processes(workers=2, threads=1) as dispatch:
        found = [value for _, value in dispatch.map(dispatch_tasks.whereabouts, range(4))]
    assert {(threads, variable) for _, threads, variable in found} == {(1, "1")}
    assert os.getpid() not in {pid for pid, _, _ in found}
    assert dict(os.environ) == before
    assert cpu_threads() >= 1


@pytest.mark.slow
def test_energies_agree_to_the_last_digit_whatever_number_of_threads_blas_has() -> None:
    """BLAS rounds matrix products differently with another number of threads; each number runs in a new process."""
    code = (
        "if __name__ == '__main__':\n"
        "    import numpy as np\n"
        "    from problems import BlockProblem\n"
        "    from solvers import get_solver\n"
        "    from solvers.dispatch import get_dispatch\n"
        "    rng = np.random.default_rng(0)\n"
        "    problems = [BlockProblem(rng.standard_normal((1200, 1200)), cardinality=300) for _ in range(3)]\n"
        "    solver = get_solver('sa?restarts=10&sweeps=1')\n"
        "    alone = solver.solve_many(problems, seed=1)\n"
        "    with get_dispatch('processes', workers=2, threads=1) as dispatch:\n"
        "        answers = dispatch.solve(solver, problems, seed=1)\n"
        "    print(all((a.record.energy == b.record.energy).all() for a, b in zip(answers, alone)))\n"
    )
    for threads in ("1", "2", None):
        given = {key: value for key, value in os.environ.items() if not key.endswith("NUM_THREADS")}
        given |= {"OMP_NUM_THREADS": threads} if threads else {}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False, env=given
        )
        assert done.stdout == "True\n", (threads, done.stderr)


@needs_shm
def test_a_failed_share_leaves_no_shared_memory() -> None:
    with Processes(workers=1) as dispatch:
        with pytest.raises(OptionError, match="cannot be sent"):
            dispatch.share([np.zeros(500_000), lambda: None])
        assert segments() == []


def test_no_process_is_left_behind() -> None:
    dispatch = Processes(workers=2)
    assert not dispatch._pool  # workers start with the first work
    list(dispatch.map(dispatch_tasks.square, range(4)))
    pids = [one.process.pid for one in dispatch._pool]
    dispatch.close()
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids if pid)
    assert dict(dispatch.map(dispatch_tasks.square, [2])) == {0: 4}  # starts new workers
    dispatch.close()


# Programs ended by signals


@needs_shm
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_program_that_ends_leaves_no_process_and_no_memory(tmp_path: Path, ending: signal.Signals) -> None:
    began = tmp_path / "began"
    program = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(began)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: len(list(tmp_path.glob("began-*"))) == 2 or program.poll() is not None)
        workers = [int(path.name.removeprefix("began-")) for path in tmp_path.glob("began-*")]
        assert len(segments(program.pid)) == 1
        # Ctrl-C reaches all processes of the terminal's group; here the whole session's.
        (os.killpg if ending == signal.SIGINT else os.kill)(program.pid, ending)
        said, _ = program.communicate(timeout=60)
        until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
        until(lambda: segments(program.pid) == [])
    finally:
        if program.poll() is None:
            program.kill()
            program.communicate()
    if ending == signal.SIGINT:
        assert "KeyboardInterrupt" in said
        assert said.count("Traceback") == 1  # of the program; none of the workers
    else:
        assert program.returncode == -ending


def test_a_program_from_the_standard_input_can_use_processes() -> None:
    program = (
        "from solvers.dispatch import get_dispatch\n"
        "with get_dispatch('processes?workers=1') as dispatch:\n"
        "    print(list(dispatch.map(abs, [-1])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "[(0, 1)]\n", done.stderr


def test_a_script_without_a_main_guard_gets_an_error_that_names_it(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from solvers.dispatch import get_dispatch\n"
        "with get_dispatch('processes?workers=1') as dispatch:\n"
        "    print(list(dispatch.map(abs, [-1])))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr
