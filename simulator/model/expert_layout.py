"""What the kernel of MXFP4 experts makes of their matrices in device memory: padding, and scales it keeps twice.

A kernel rounds a rank's share of the experts' width, and the hidden width, up to whole tiles. OpenAI's Triton kernels
swizzle the scales into a second tensor whose rows are whole tiles of all warps, while the loaded ones stay, and hold
biases in fp32. Which kernel an engine runs on a device is a fact of its profile (``mxfp4_experts``).
Sources: vLLM 0.10.2, 0.11.0, 0.18.0 (``quantization/mxfp4.py``) and 0.33.0 (``fused_moe/oracle/mxfp4.py``), SGLang
0.5.10 (``quantization/mxfp4.py``), ``triton_kernels`` (``layout_details/hopper_scale.py``). With them gpt-oss-120b on
one H100 takes 65.9 GiB under Marlin and 64.3 GiB under Triton; servers logged 65.97 and 64.38 (vLLM 23278, 33155).
"""

from typing import Final, Literal

from cluster_specs.lazy_dataclass import dataclass

ExpertKernel = Literal["plain", "marlin", "triton", "strided", "trtllm", "trtllm_256", "rocm"]

_SCALE_GROUP: Final = 32  # elements of k that share one 8-bit exponent


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLayout:
    """Multiples that widths are rounded up to, and what is kept beside the weights."""

    inter_multiple: int = 1
    hidden_multiple: int = 1
    second_scale_rows: int = 0  # multiple of the rows of a second copy of the scales; 0 = there is none
    has_fp32_bias: bool = False

    def inter(self, width: int) -> int:
        """One rank's width of an expert, as stored."""
        return -(-width // self.inter_multiple) * self.inter_multiple

    def hidden(self, width: int) -> int:
        """Hidden width of an expert's matrices, as stored."""
        return -(-width // self.hidden_multiple) * self.hidden_multiple

    def second_scale_bytes(self, n: int, k: int) -> int:
        """Bytes of the second copy of the scales of an ``n`` x ``k`` matrix."""
        if not self.second_scale_rows:
            return 0
        return -(-n // self.second_scale_rows) * self.second_scale_rows * -(-k // _SCALE_GROUP)


PLAIN: Final = ExpertLayout()

EXPERT_LAYOUTS: Final[dict[ExpertKernel, ExpertLayout]] = {
    "plain": PLAIN,
    "marlin": ExpertLayout(inter_multiple=128, hidden_multiple=256),
    "triton": ExpertLayout(inter_multiple=64, second_scale_rows=256, has_fp32_bias=True),
    "strided": ExpertLayout(inter_multiple=64, has_fp32_bias=True),
    "trtllm": ExpertLayout(inter_multiple=128, hidden_multiple=256, has_fp32_bias=True),
    "trtllm_256": ExpertLayout(inter_multiple=256, hidden_multiple=256, has_fp32_bias=True),
    "rocm": ExpertLayout(inter_multiple=256, hidden_multiple=256, has_fp32_bias=True),
}
