"""Public traces as they are published, read where a copy is at hand."""

from pathlib import Path

import numpy as np
import pytest

from simulator.workload.describe import describe_workload
from simulator.workload.traces.read_trace import iter_trace, read_trace

GROUNDTRUTH = Path(__file__).parents[3] / "shared" / "groundtruth"
pytestmark = pytest.mark.skipif(not GROUNDTRUTH.is_dir(), reason="no ../shared/groundtruth beside this checkout")

# requests, sum of prompt tokens, sum of output tokens: counted with awk over the raw files
TOTALS = {
    "azure_2023_conv.csv": (19_366, 22_361_870, 4_088_665),
    "azure_2023_code.csv": (8_819, 18_059_974, 245_896),
    "mooncake_conversation.jsonl": (12_031, 144_793_823, 4_122_048),
    "apex_llama_creation_05.jsonl": (512, 157_563, 585_888),
}


@pytest.mark.parametrize("name", TOTALS)
def test_published_trace_reads_completely(name: str) -> None:
    """Every request of a published trace is read: as many requests and tokens as the raw file has."""
    workload = read_trace(GROUNDTRUTH / "traces" / name)
    assert (len(workload), workload.prompt_tokens.sum(), workload.output_tokens.sum()) == TOTALS[name]
    assert (np.diff(workload.arrival_s) >= 0).all()
    assert workload.notes == ()


def test_azure_conversation_hour_has_its_published_span() -> None:
    """The 2023 conversation trace covers 18:15:46.68 to 19:14:08.40, read from its first and last line."""
    workload = read_trace(GROUNDTRUTH / "traces" / "azure_2023_conv.csv")
    assert workload.arrival_s[-1] == pytest.approx(3501.721937, abs=1e-6)


def test_streamed_trace_equals_the_whole(tmp_path: Path) -> None:
    """A published trace streamed in small chunks is the trace read at once."""
    path = GROUNDTRUTH / "traces" / "azure_2023_conv.csv"
    whole = read_trace(path)
    chunks = list(iter_trace(path, chunk_requests=1_000))
    np.testing.assert_array_equal(np.concatenate([chunk.arrival_s for chunk in chunks]), whole.arrival_s)
    np.testing.assert_array_equal(np.concatenate([chunk.output_tokens for chunk in chunks]), whole.output_tokens)


def test_recorded_runs_name_their_replica() -> None:
    """A data-parallel APEX run tells which replica served each request."""
    workload = read_trace(GROUNDTRUTH / "runs" / "llama_creation_025_2DP4TP.jsonl")
    assert workload.replica is not None
    assert set(workload.replica.tolist()) == {0, 1}


def test_mooncake_prefix_sharing_is_a_third_or_more() -> None:
    """Over a third of the conversation trace's prompt tokens repeat an earlier prefix."""
    figures = describe_workload(read_trace(GROUNDTRUTH / "traces" / "mooncake_conversation.jsonl"))
    assert 0.33 < figures["reusable_prompt_tokens_frac"] < 0.45
