"""The commands whose answers are kept: every engine, kind of model, device class, client, router, pool and draft once.

Each case is a command line; ``{db}``, ``{fit}`` and ``{out}`` stand for the made measurements, the model fitted to them
and the folder of the run.
"""

from typing import Final

_CHAT: Final = "--trace chat-synthetic --limit 200"
_MIXED: Final = "--trace synthetic:isl=900,isl_cv=1.2,osl=180,osl_cv=0.8,rate=4,n=150,seed=7"
_LOOP: Final = "--trace closed:isl=1024,osl=256,concurrency=24,prompts_per_slot=6"
_LONG: Final = "--trace synthetic:long-context,rate=0.5,n=40,seed=3"
_SESSIONS: Final = "--trace sessions:chat,rate=1.5,n=50,turns=4,think_s=2,seed=11"

SEARCHES: Final[dict[str, str]] = {
    "search-dense": f"--model llama-3.1-8b --cluster h100-sxm-8 {_CHAT}",
    "search-dense-large": f"--model llama-3.1-70b --cluster h100-sxm-8 --weights bf16,fp8 --kv bf16,fp8 {_MIXED}",
    "search-two-nodes": f"--model llama-3.1-405b --cluster h100-sxm-2x8 --weights fp8 {_MIXED}",
    "search-mixture": f"--model mixtral-8x7b --cluster a100-sxm-80gb-8 {_MIXED}",
    "search-latent": f"--model deepseek-v3 --cluster h200-sxm-2x8 {_MIXED}",
    "search-sparse-attention": f"--model deepseek-v3.2 --cluster b200-8 {_MIXED}",
    "search-window": f"--model gpt-oss-120b --cluster h100-sxm-8 {_CHAT}",
    "search-linear-attention": f"--model qwen3.5-35b-a3b --cluster h200-sxm-8 {_CHAT}",
    "search-vision": f"--model qwen2.5-vl-7b --cluster l40s-8 {_MIXED}",
    "search-pools": f"--model qwen3-32b --cluster h200-sxm-8 --pools --slo ttft_s.p99<=4 {_MIXED}",
    "search-fewer-devices": f"--model qwen3-8b --cluster rtx-4090-8 --fewer-devices {_MIXED}",
    "search-clocks": f"--model llama-3.1-8b --cluster a100-sxm-80gb-8 --clocks 1410,1005 --objective energy_j {_CHAT}",
    "search-limits": f"--model qwen3-14b --cluster h100-pcie-8 --seqs 64,256 --tokens 2048,8192 {_MIXED}",
    "search-goodput": f"--model mistral-7b --cluster l4-8 --slo ttft_s<=3 --objective goodput_requests_per_s {_MIXED}",
    "search-sustainable": "--model llama-3.1-8b --cluster h100-sxm-8 --plan tp2-dp4 --slo ttft_s.p99<=2 "
    f"--objective sustainable_requests_per_s {_CHAT}",
    "search-loop": f"--model llama-3.3-70b --cluster mi300x-8 {_LOOP}",
    "search-sglang": f"--model qwen3-30b-a3b --cluster h100-sxm-8 --engine sglang-0.5 {_MIXED}",
    "search-tensorrt-llm": f"--model llama-3.1-8b --cluster h100-sxm-8 --engine tensorrt-llm-1.0 {_MIXED}",
    "search-analytic": f"--model gemma-3-27b --cluster h20-8 --costs analytic {_MIXED}",
    "search-nothing-fits": f"--model kimi-k2 --cluster l4-8 {_MIXED}",
}

SIMULATIONS: Final[dict[str, str]] = {
    "simulate-one": f"--model llama-3.2-1b --cluster h100-sxm-8 --plan dp8 {_CHAT}",
    "simulate-tensor": f"--model llama-3.1-70b --cluster h200-sxm-8 --plan tp8 {_MIXED}",
    "simulate-pipeline": f"--model llama-3.1-70b --cluster a100-sxm-80gb-8 --plan pp2-tp4 {_MIXED}",
    "simulate-deep-pipeline": f"--model llama-2-70b --cluster v100-sxm2-2x8 --plan pp4-tp4 {_MIXED}",
    "simulate-vllm-0.6": f"--model llama-2-7b --cluster a100-sxm-80gb-8 --engine vllm-0.6 --plan dp4-tp2 {_MIXED}",
    "simulate-vllm-0.10": f"--model qwen2.5-32b --cluster h100-sxm-8 --engine vllm-0.10 --plan dp2-tp4 {_LOOP}",
    "simulate-vllm-0.11": f"--model qwen3-32b --cluster h200-sxm-8 --engine vllm-0.11 --plan dp4-tp2 {_LOOP}",
    "simulate-vllm-0.18": f"--model gpt-oss-20b --cluster b200-8 --engine vllm-0.18 --plan dp8 {_LOOP}",
    "simulate-orca": f"--model llama-2-7b --cluster a100-sxm-40gb-8 --engine orca --plan dp8 {_MIXED}",
    "simulate-sglang": f"--model deepseek-r1 --cluster h200-sxm-8 --engine sglang-0.5 --plan tp8 {_LOOP}",
    "simulate-sglang-ranks": f"--model deepseek-v3 --cluster h200-sxm-8 --engine sglang-0.5 "
    f"--plan attn.dp8-moe.ep8 {_LOOP}",
    "simulate-tensorrt-llm": f"--model llama-3.1-8b --cluster h100-sxm-8 --engine tensorrt-llm-1.0 --plan dp8 {_LOOP}",
    "simulate-experts": f"--model qwen3-235b-a22b --cluster h200-sxm-8 --plan tp8-ep8 {_MIXED}",
    "simulate-ranks": f"--model deepseek-v3 --cluster h200-sxm-8 --plan attn.dp8-moe.ep8 {_MIXED}",
    "simulate-pools": f"--model llama-3.1-70b --cluster h100-sxm-2x8 --plan prefill.tp8+decode.tp8 {_MIXED}",
    "simulate-pools-many": f"--model qwen3-8b --cluster h100-sxm-8 --plan prefill.dp4+decode.dp2-tp2 {_CHAT}",
    "simulate-drafts": f"--model llama-3.1-70b --cluster h100-sxm-8 --plan tp8 --speculative-tokens 3 "
    f"--speculative-acceptance 0.7 --draft-step-s 0.002 {_MIXED}",
    "simulate-drafts-synchronous": f"--model llama-3.1-8b --cluster h100-sxm-8 --plan dp8 --speculative-tokens 2 "
    f"--speculative-acceptance 0.5 --no-async-scheduling {_LOOP}",
    "simulate-prefixes": f"--model llama-3.1-8b --cluster h100-sxm-8 --plan dp8 --router prefix {_SESSIONS}",
    "simulate-no-prefixes": f"--model llama-3.1-8b --cluster h100-sxm-8 --plan dp8 --no-prefix-caching {_SESSIONS}",
    "simulate-least-outstanding": f"--model qwen3-8b --cluster l40s-8 --plan dp8 --router least_outstanding {_MIXED}",
    "simulate-preemption": f"--model llama-3.1-8b --cluster h100-sxm-8 --plan dp8 --num-gpu-blocks 700 {_LOOP}",
    "simulate-few-slots": f"--model llama-3.1-8b --cluster h100-sxm-8 --plan dp4-tp2 --max-num-seqs 6 {_LOOP}",
    "simulate-whole-prompts": f"--model qwen2.5-7b --cluster a10g-8 --plan dp4-tp2 --no-chunked-prefill {_MIXED}",
    "simulate-long": f"--model llama-4-scout --cluster h200-sxm-8 --plan tp8 {_LONG}",
    "simulate-window": f"--model gemma-3-12b --cluster rtx-pro-6000-8 --plan dp4-tp2 {_LONG}",
    "simulate-linear-attention": f"--model qwen3.5-27b --cluster h100-sxm-8 --plan dp2-tp4 {_LONG}",
    "simulate-latent": f"--model kimi-k2.5 --cluster b300-8 --plan tp8 {_MIXED}",
    "simulate-minimax": f"--model minimax-m2.5 --cluster h200-sxm-8 --plan tp8-ep8 {_LOOP}",
    "simulate-glm": f"--model glm-4.5-air --cluster h100-sxm-8 --plan dp2-tp4 {_MIXED}",
    "simulate-nvfp4": f"--model deepseek-v3.1-nvfp4 --cluster gb200-72 --plan dp9-tp8 {_MIXED}",
    "simulate-analytic": f"--model phi-4 --cluster mi355x-8 --costs analytic --plan dp8 {_MIXED}",
    "simulate-clock": f"--model llama-3.1-8b --cluster h100-sxm-8 --plan dp8-f1200 {_MIXED}",
    "simulate-fit": f"--model llama-3.1-8b --cluster h100-sxm-8 --costs {{fit}} --plan dp2-tp4 {_MIXED}",
    "simulate-fit-clip": f"--model mixtral-8x7b --cluster h100-sxm-8 --costs {{fit}} --out-of-domain clip "
    f"--plan dp2-tp4 {_MIXED}",
}

FITS: Final[dict[str, str]] = {
    "fit": "--db {db} --device h100-sxm --cluster h100-sxm-2x8 --prior none",
    "fit-monotone": "--db {db} --device h100-sxm --monotone --prior none",
    "fit-prior": "--db {db} --device h100-sxm",
    "fit-sibling-prior": "--db {db} --device h100-sxm --prior a100-sxm-80gb",
    "fit-framework": "--db {db} --device h100-sxm --framework vllm-0.24.0 --prior none",
}
