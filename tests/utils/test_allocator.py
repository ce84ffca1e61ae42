"""The option of glibc, in processes of their own, since it holds for a whole process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys
from implicit_prm.utils.allocator import keep_freed_memory

size = int(sys.argv[1]) << 20
print(keep_freed_memory())
bytearray(size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(monkeypatch, megabytes=16, **variables):
    """Whether the allocator was set, and the page faults of using a block's freed memory again."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = subprocess.run([sys.executable, "-c", FAULTS, str(megabytes)], capture_output=True, text=True, check=True)
    done, faults = ran.stdout.split()
    return done == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_freed_memory_is_used_again(monkeypatch):
    done, faults = _faults(monkeypatch)
    assert done
    assert faults < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_large_blocks_are_returned(monkeypatch):
    """Kept, they would be split for small ones, and the process would grow."""
    done, faults = _faults(monkeypatch, megabytes=64)
    assert done
    assert faults > 1000


@pytest.mark.parametrize("name", ["IPR_KEEP_FREED_MEMORY", "MALLOC_TRIM_THRESHOLD_"])
def test_the_user_may_leave_the_allocator_alone(monkeypatch, name):
    done, faults = _faults(monkeypatch, **{name: "0"})
    assert not done
    assert faults > 1000
