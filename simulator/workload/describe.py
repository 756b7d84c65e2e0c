"""What a workload is like: counts, rates, length percentiles, burstiness and how much of its prompts is shared."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulator.workload.items import Media
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, PrefixBlocks, Workload

_PERCENTILES: Final = (50, 90, 95, 99)


def describe_workload(workload: Workload) -> dict[str, Any]:
    """Return the figures as a JSON-ready dict; an undefined figure (the rate of a closed loop) is None.

    Rates count requests that arrive on their own, not turns that follow another. ``arrival_gap_cv`` is standard
    deviation over mean of the gaps between arrivals (1 for Poisson); ``peak_to_mean_rate`` compares the busiest
    sixtieth of the trace with the average; ``reusable_prompt_tokens_frac`` is the share of prompt tokens in leading
    blocks that an earlier request already had, the hit rate of an infinite prefix cache.
    """
    arrival_s = workload.arrival_s if workload.after is None else workload.arrival_s[workload.after < 0]
    span_s = float(arrival_s[-1] - arrival_s[0])
    is_timed = span_s > 0 and not isinstance(workload.client, ClosedLoop)
    client = workload.client
    return {
        "name": workload.name,
        "requests": len(workload),
        "client": _client(client) + _patience(workload.client_timeout_s),
        "warmup_requests": client.warmup if isinstance(client, ClosedLoop) else 0,
        "span_s": span_s,
        "rate_per_s": (len(arrival_s) - 1) / span_s if is_timed else None,
        "arrival_gap_cv": _gap_cv(arrival_s) if is_timed else None,
        "peak_to_mean_rate": _peak_to_mean(arrival_s) if is_timed else None,
        "prompt_tokens": _lengths(workload.prompt_tokens),
        "output_tokens": _lengths(workload.output_tokens),
        "prompt_output_correlation": _correlation(workload.prompt_tokens, workload.output_tokens),
        "turns_after_another": 0 if workload.after is None else int((workload.after >= 0).sum()),
        "prefix_block_tokens": None if workload.prefix is None else workload.prefix.block_tokens,
        "reusable_prompt_tokens_frac": _reusable_frac(workload.prefix, workload.prompt_tokens),
        **_media(workload.media),
        "notes": list(workload.notes),
    }


def _media(media: Media | None) -> dict[str, Any]:
    """Count images and clips, where requests hold any; pixels in millions."""
    if media is None:
        return {}
    megapixels = media.width * media.height / 1e6
    figures: dict[str, Any] = {}
    if media.images:
        figures |= {"images": media.images, "image_megapixels": float(megapixels.mean())}
    if media.clips:
        figures |= {"audio_clips": media.clips, "audio_s": float(media.audio_s.mean())}
    return figures


def _client(client: OpenLoop | ClosedLoop | CappedLoop) -> str:
    if isinstance(client, ClosedLoop):
        return f"closed loop at {client.concurrency}"
    return f"open loop up to a concurrency of {client.concurrency}" if isinstance(client, CappedLoop) else "open loop"


def _patience(timeout_s: float | None) -> str:
    return "" if timeout_s is None else f", gives up after {timeout_s:g} s"


def _lengths(tokens: NDArray[np.int64]) -> dict[str, float | None]:
    summary: dict[str, float | None] = {"total": int(tokens.sum()), "mean": float(tokens.mean())}
    summary["cv"] = float(tokens.std() / tokens.mean()) if tokens.any() else None
    summary["min"] = int(tokens.min())
    summary.update({f"p{p}": float(np.percentile(tokens, p)) for p in _PERCENTILES})
    summary["max"] = int(tokens.max())
    return summary


def _gap_cv(arrival_s: NDArray[np.float64]) -> float | None:
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean()) if len(gaps) > 1 else None


def _peak_to_mean(arrival_s: NDArray[np.float64]) -> float:
    per_bin, _ = np.histogram(arrival_s, bins=60)
    return float(per_bin.max() / per_bin.mean())


def _correlation(prompt: NDArray[np.int64], output: NDArray[np.int64]) -> float | None:
    if len(prompt) < 2 or prompt.std() == 0 or output.std() == 0:
        return None
    return float(np.corrcoef(prompt, output)[0, 1])


def _reusable_frac(prefix: PrefixBlocks | None, prompt_tokens: NDArray[np.int64]) -> float | None:
    if prefix is None:
        return None
    # Ids are prefix-unique, so a block seen before implies that everything ahead of it was seen too.
    _, first_seen = np.unique(prefix.ids, return_index=True)
    is_new = np.zeros(len(prefix.ids), dtype=bool)
    is_new[first_seen] = True
    owner = np.repeat(np.arange(len(prompt_tokens)), np.diff(prefix.offsets))
    tokens = np.full(len(prefix.ids), prefix.block_tokens, dtype=np.int64)
    lasts = prefix.offsets[1:] - 1
    ends_partial = (np.diff(prefix.offsets) * prefix.block_tokens > prompt_tokens) & (np.diff(prefix.offsets) > 0)
    tokens[lasts[ends_partial]] = (prompt_tokens % prefix.block_tokens)[owner[lasts[ends_partial]]]
    return float(tokens[~is_new].sum() / prompt_tokens.sum())
