"""What each modelled effect is worth: every public server replayed with one of them switched off."""

from typing import Final

from benchmarks.fidelity.replay import Variant

_HOST_TIMES: Final = ("step_s", "sequence_s", "serial_step_s", "serial_sequence_s")
_EVERY_SIZE: Final = list(range(1, 513))

ABLATIONS: Final = (
    Variant(name="the next step is not scheduled while one runs", settings={"async_scheduling": False}),
    Variant(name="no host time per step and sequence", changes={f"host.{name}": 0.0 for name in _HOST_TIMES}),
    Variant(name="no time in frontend and tokenizer", changes={"host.frontend_s": 0.0, "host.frontend_token_s": 0.0}),
    Variant(
        name="no CUDA graphs",
        settings={"enforce_eager": True, "cudagraph_mode": None, "max_cudagraph_capture_size": None},
    ),
    Variant(
        name="graphs of every size, so that no step is padded", changes={"graphs.sizes": _EVERY_SIZE, "graphs.step": 1}
    ),
    Variant(
        name="new requests are looked for, and tokens sent, at every step",
        settings={"scheduler_recv_interval": None, "stream_interval": None},
    ),
    Variant(
        name="prompts never wait for company",
        settings=dict.fromkeys(
            (
                "batch_wait_timeout_iters",
                "batch_wait_max_tokens_ratio",
                "attention_dp_timeout_iters",
                "attention_dp_batching_wait_iters",
            )
        ),
    ),
    Variant(name="launches of eager steps cost nothing", changes={"host.launch_s": 0.0}),
    Variant(name="no slowdown under sustained load", changes={"sustained_load.slowdown_frac": 0.0}),
    Variant(name="tokens choose experts evenly", changes={"expert_routing.skew": "balanced"}),
    Variant(name="shared experts run after the routed ones", changes={"shared_expert_tokens": 0}),
)
