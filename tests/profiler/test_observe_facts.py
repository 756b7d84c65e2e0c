"""What the server's counters say of one load."""

from profiler.observe.facts import ObservedServer, ServerReading
from profiles_db.recordings.server_facts import ServerFacts, server_facts

_SERVER = ObservedServer(engine="vllm", version="0.33.0", model="m", num_gpu_blocks=100, block_size=16, engines=1)
_BEFORE = ServerReading(preemptions=2.0, prefix_hit_tokens=10.0, prefix_query_tokens=100.0)
_AFTER = ServerReading(preemptions=5.0, prefix_hit_tokens=60.0, prefix_query_tokens=300.0)


def test_what_is_written_is_what_a_prediction_reads() -> None:
    """Engine, version, KV blocks, and the preemptions and prefix hits of the load alone."""
    written = _SERVER.to_document(_BEFORE, _AFTER)
    assert server_facts({"server": written}, "f") == ServerFacts(
        engine="vllm", version="0.33.0", num_gpu_blocks=100, block_size=16, preemptions=3, prefix_hit_frac=0.25
    )


def test_what_is_not_told_stays_unknown() -> None:
    """Without metrics, without lookups, or after a restart of the server, nothing is made up."""
    assert server_facts({"server": ObservedServer().to_document(None, None)}, "f") == ServerFacts()
    assert _SERVER.to_document(_BEFORE, _BEFORE)["prefix_hit_frac"] is None
    assert _SERVER.to_document(_AFTER, _BEFORE)["preemptions"] is None
