"""Our Triton kernels compiled ahead of time for GPUs that are not here, through the launches the profiler makes.

Triton needs a driver only to say what the GPU is, to load a binary and to start it. A driver that answers the first for
a chosen architecture, and keeps the binary instead of the other two, lets every launch compile to machine code here.
"""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the profiler's kernels need torch")
triton = pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("triton.knobs", reason="this Triton does not say where its disassembler is")
if "nvidia" not in pytest.importorskip("triton.backends").backends:
    pytest.skip("this Triton does not compile for NVIDIA GPUs", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402 - triton first
from triton.runtime import driver  # noqa: E402

from costmodel.ops.small_ops import small_op  # noqa: E402
from profiler.backend import Unsupported  # noqa: E402
from profiler.kernels.buffers import Buffers  # noqa: E402
from profiler.kernels.triton_backend import TritonBackend  # noqa: E402
from profiler.kernels.triton_rows import dequantise  # noqa: E402
from profiler.planning.grid import attention_shape  # noqa: E402
from profiler.point import OpShape, small_op_shape  # noqa: E402

# Shared memory one block may have, by compute capability (CUDA programming guide, technical specifications).
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
# A few addresses parked outside a loop are harmless; sums in local memory are not.
MAX_SPILLED_BYTES = 96
# What a tile of 64 rows or columns has to run on: the first generation's instruction would halve a Hopper's rate.
MATRIX_UNIT = {80: r"[HI]MMA", 90: r"[HQI]GMMA", 100: r"UTC[HQIO]+MMA"}


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """One kernel's machine code, and its bytes of shared memory and of spilled registers."""

    name: str
    binary: bytes
    shared_bytes: int
    spilled_bytes: int

    def instructions(self):
        """Count its instructions by name."""
        code = _told_by([triton.knobs.nvidia.nvdisasm.path, "-c", "-ndf"], self.binary)
        return Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", code, re.MULTILINE))


class AbsentGpu:
    """A driver for a GPU that is not here: Triton compiles for it, nothing runs. The device number is its arch."""

    def __init__(self, arch):
        self.arch = arch
        self.launched = []
        self.utils = SimpleNamespace(get_device_properties=self.properties, load_binary=self.load)

    def get_current_target(self):
        """Name the architecture to compile for."""
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self):
        """Kernels are cached by device: one per architecture."""
        return self.arch

    def get_current_stream(self, _device):
        """There is no stream."""
        return 0

    def properties(self, _device):
        """Answer the limit Triton checks a kernel against."""
        return {"max_shared_mem": SHARED_BYTES[self.arch]}

    def load(self, name, binary, shared_bytes, _device):
        """Return what is known of the machine code as its handle, and some module (without one it is loaded anew)."""
        usage = _told_by([triton.knobs.nvidia.cuobjdump.path, "-res-usage"], binary)
        spilled = int(re.search(rf"{name}.*?STACK:(\d+)", usage, re.DOTALL)[1])
        return self, Compiled(name, binary, shared_bytes, spilled), 0, 0, 1024

    def launcher_cls(self, _source, _metadata):
        """Note the kernel (after grid and stream) instead of starting it."""
        return lambda *call: self.launched.append(call[4])


def _told_by(tool, binary):
    """Return what a tool that comes with Triton says of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([*tool, file.name], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """Compile anew, and leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="module")
def absent_gpus():
    """One GPU of each architecture, whose kernels Triton remembers."""
    return {arch: AbsentGpu(arch) for arch in SHARED_BYTES}


@pytest.fixture
def compiled(absent_gpus):
    """Return the kernels a launch starts on an architecture."""
    before = driver._active

    def compile_for(arch, launch):
        driver.set_active(absent_gpus[arch])
        absent_gpus[arch].launched.clear()
        launch()
        return list(absent_gpus[arch].launched)

    yield compile_for
    driver._active = before  # what `reset_active` restores is a real GPU


def launched(op):
    """Prepare an op on our backend, which launches it once."""
    backend = TritonBackend()
    assert backend.kernels_for(op) == ("triton",)
    return lambda: backend.prepare(op, "triton", Buffers(torch.device("cpu"), cold_bytes=1 << 16, seed=1))


def gemm(dtype, scaling, m):
    return OpShape.of("gemm", dtype=dtype, m=m, n=256, k=1024, scaling=scaling, quantise=True)


def moe(dtype, rows):
    """Two experts of so many rows each, their inner width no whole number of MXFP4's turns."""
    sizes = {"hidden": 256, "inter": 720 if dtype == "mxfp4" else 256, "num_experts": 2, "topk": 1, "tp": 1, "ep": 1}
    return OpShape.of("moe", dtype=dtype, num_tokens=2 * rows, routing="balanced", **sizes)


def attention(heads, *, kv_dtype="bf16", variant="gqa", v_head_dim=None, **batch):
    columns = attention_shape("bf16", heads, **batch).shape
    changed = {"kv_dtype": kv_dtype, "variant": variant, "v_head_dim": v_head_dim or heads[2]}
    return OpShape.of("attention", dtype="bf16", **(columns | changed))


def small(name, dtype, width, scales=1):
    out = {"fp8": "fp8", "w8a8": "int8"}.get(dtype, "")
    rounded = {"out": out, "scales": scales} if out else {}
    return small_op_shape(small_op(name, rows=2, width=width, dtype="bf16" if out else dtype, **rounded))


def check(kernels, arch):
    """Every kernel fits the architecture's shared memory and keeps its sums in registers."""
    assert kernels
    for kernel in kernels:
        assert kernel.shared_bytes <= SHARED_BYTES[arch], kernel.name
        assert kernel.spilled_bytes <= MAX_SPILLED_BYTES, kernel.name


EXPERTS = ["bf16", "fp8", "w8a8", "fp8_block", "w4a16", "mxfp4"]
# The greatest tile of every format, the middle one where registers are scarcest, and the least of each width of
# weights. Dense layers run the experts' loop between other addresses; other generations have a case of each way into
# their matrix unit.
PRODUCTS = [
    *((90, moe(dtype, 128)) for dtype in EXPERTS),
    (90, moe("fp8_block", 64)),
    *((90, moe(dtype, 1)) for dtype in ("bf16", "fp8", "mxfp4")),
    *((90, gemm("w8a16", "row", m)) for m in (1, 512)),
    *((arch, gemm("w8a8", "row", m)) for arch in (80, 90) for m in (1, 512)),
    (90, gemm("w4a16", "group128", 1)),
    *((100, moe(dtype, 128)) for dtype in ("fp8_block", "mxfp4")),
    *((80, moe(dtype, 128)) for dtype in ("w8a8", "mxfp4")),
]


@pytest.mark.parametrize(("arch", "op"), PRODUCTS, ids=str)
def test_products_compile_onto_the_matrix_unit_of_their_generation(compiled, arch, op):
    """Every tile of every format fits the device, spills nothing and runs on its newest matrix instruction."""
    kernels = compiled(arch, launched(op))
    check(kernels, arch)
    product = next(kernel for kernel in kernels if kernel.name in {"_linear_kernel", "_grouped_gemm_kernel"})
    instructions = product.instructions()  # a layer's second product runs the loop of its first
    assert any(re.fullmatch(MATRIX_UNIT[arch], name) for name in instructions), instructions


def test_batches_of_one_tile_share_a_binary(compiled):
    """Batch sizes of one tile height, odd, even or one, compile once: a sweep over them measures, not compiles."""
    kernels = [
        kernel
        for m in (1, 7, 16)
        for kernel in compiled(90, launched(gemm("fp8_block", "group128", m)))
        if kernel.name == "_linear_kernel"
    ]
    check(kernels, 90)
    assert len(kernels) == 3
    assert len({id(kernel) for kernel in kernels}) == 1


LLAMA, LATENT = (32, 8, 128), (128, 1, 576)
ATTENTION = [
    (90, attention(LLAMA, decode=(2, 2048, 2048), kv_dtype="fp8")),
    (90, attention(LLAMA, prefill=(1, 512, 1024), kv_dtype="fp8", window=256)),
    (90, attention((8, 4, 256), prefill=(1, 64, 128), kv_dtype="fp8")),
    (90, attention(LATENT, decode=(1, 1024, 1024), variant="mla", v_head_dim=512)),
    (100, attention(LLAMA, decode=(2, 2048, 2048), kv_dtype="fp8")),
    (80, attention((16, 1, 576), decode=(1, 1024, 1024), variant="mla", v_head_dim=512)),
]


@pytest.mark.parametrize(("arch", "op"), ATTENTION, ids=str)
def test_attention_compiles(compiled, arch, op):
    """Every kind of head and batch fits the device and keeps its sums in registers."""
    check(compiled(arch, launched(op)), arch)


def test_fp8_is_widened_in_pairs(compiled):
    """E4m3 keys become fp16 by the pair instruction, without a detour through fp32."""
    kernels = compiled(90, launched(attention(LLAMA, decode=(2, 2048, 2048), kv_dtype="fp8")))
    (kernel,) = (kernel for kernel in kernels if kernel.name == "_attention_kernel")
    widened = 2 * 64 * 128 // 128 // 2  # keys and values of a turn, by thread, in pairs
    assert kernel.instructions()["F2FP"] >= widened


def scan(variant, *, phase="prefill", state_dim=128, head_dim=64, dtype="bf16"):
    """Eight heads in two groups over a prompt of 300 tokens, or four steps."""
    counts = (1, 300, 0, 0) if phase == "prefill" else (0, 0, 4, 1)
    counts = dict(zip(("num_prefill", "prefill_q", "num_decode", "decode_q"), counts, strict=True))
    sizes = {"num_heads": 8, "num_groups": 2, "head_dim": head_dim, "state_dim": state_dim, "chunk": 128}
    return OpShape.of("scan", dtype=dtype, phase=phase, variant=variant, state_dtype="fp32", **sizes, **counts)


SCANS = [
    *((arch, scan("mamba2")) for arch in SHARED_BYTES),
    *((arch, scan("gated_delta", head_dim=128)) for arch in SHARED_BYTES),
    (90, scan("mamba2", state_dim=256)),
    *((90, scan(variant, phase="decode", head_dim=128)) for variant in ("mamba2", "gated_delta")),
]


@pytest.mark.parametrize(("arch", "op"), SCANS, ids=str)
def test_scans_compile(compiled, arch, op):
    """A block of a state, and what a chunk makes of it, stay in registers; a prompt runs on the matrix unit."""
    kernels = compiled(arch, launched(op))
    check(kernels, arch)
    if op.shape["phase"] == "prefill":
        instructions = kernels[0].instructions()
        assert any(re.fullmatch(MATRIX_UNIT[80] + "|" + MATRIX_UNIT[arch], name) for name in instructions)


SMALL = [
    ("add_rmsnorm_quantise", "fp8", 8192),
    ("add_layernorm_quantise", "fp8", 8192),
    ("quantise", "fp8", 8192, 64),
    ("quantise", "fp8", 8192, 0),
    ("silu_mul_quantise", "w8a8", 8192),
    ("rmsnorm", "bf16", 32768),
    *((name, "bf16", 8192) for name in ("rope", "conv1d", "kv_write", "rmsnorm_gate", "sigmoid_mul", "qk_norm")),
    *((f"{name}_mul", "bf16", 8192) for name in ("gelu", "relu2", "xielu")),
]


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_small_ops_compile(compiled, arch):
    """Whole rows are held in registers, in every format the architecture has."""
    for case in SMALL if arch == 90 else SMALL[4:5]:
        check(compiled(arch, launched(small(*case))), arch)
    product = torch.zeros((2, 2048), dtype=torch.int32)
    check(compiled(arch, lambda: dequantise(product, torch.ones((2, 1)), torch.ones((1, 2048)))), arch)


def test_what_an_architecture_lacks_is_unsupported(compiled):
    """FP8 on a GPU without it is a verdict on the point, not a crash of the run."""
    with pytest.raises(Unsupported, match="Triton"):
        compiled(80, launched(moe("fp8", 1)))
