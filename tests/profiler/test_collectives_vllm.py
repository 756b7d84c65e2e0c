"""vLLM's custom all-reduce as a path of ours: built once per group, declined where vLLM would decline."""

import sys
import textwrap

import pytest

pytest.importorskip("torch")

import torch

from profiler.backend import Unsupported
from profiler.collectives.kernels import Communicator, VllmCustomAllReduce

# What this path calls of vLLM's class, with its signatures and its rules on size and alignment.
_STAND_IN = """
from contextlib import contextmanager

built = []


class CustomAllreduce:
    def __init__(self, group, device, max_size=8192 * 1024, symm_mem_enabled=False):
        self.disabled, self.max_size, self.captured = True, max_size, 0
        built.append(self)

    def finalize_p2p(self):
        self.disabled = False

    @contextmanager
    def capture(self):
        self.captured += 1
        yield

    def should_custom_ar(self, inp):
        size = inp.numel() * inp.element_size()
        return not self.disabled and size % 16 == 0 and size < self.max_size

    def custom_all_reduce(self, input):
        return input * 2 if self.should_custom_ar(input) else None
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    folder = tmp_path / "vllm" / "distributed" / "device_communicators"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent, folder.parent.parent):
        (package / "__init__.py").touch()
    (folder / "custom_all_reduce.py").write_text(textwrap.dedent(_STAND_IN))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("vllm", "vllm.distributed", "vllm.distributed.device_communicators"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from vllm.distributed.device_communicators import custom_all_reduce

    yield custom_all_reduce
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]  # or every later test would find a vLLM on this machine


@pytest.fixture
def communicator():
    return Communicator(ranks=(0, 1), data=None, host=None, device=torch.device("cpu"))


def test_one_communicator_serves_all_sizes_of_a_group(stand_in, communicator):
    """Peer buffers are exchanged once; the second, collective step of newer releases is taken."""
    path = VllmCustomAllReduce()
    small = path.prepare("all_reduce", 4096, "bf16", communicator)
    path.prepare("all_reduce", 8192, "bf16", communicator)
    (custom,) = stand_in.built
    assert not custom.disabled
    assert small.launch().nbytes == 4096
    with small.capture():
        assert custom.captured == 1


@pytest.mark.parametrize("message_bytes", [8 << 20, 4104])
def test_what_vllm_would_hand_to_nccl_is_unsupported(stand_in, communicator, message_bytes):
    """Too large or unaligned: no row pretends to be the custom path."""
    with pytest.raises(Unsupported, match=f"declines {message_bytes} bytes over 2 ranks"):
        VllmCustomAllReduce().prepare("all_reduce", message_bytes, "bf16", communicator)


def test_other_collectives_are_not_its_own(communicator):
    """The path is all-reduce alone."""
    with pytest.raises(Unsupported, match="has no all_gather"):
        VllmCustomAllReduce().prepare("all_gather", 4096, "bf16", communicator)
