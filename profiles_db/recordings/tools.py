"""Names of the clients whose files tell of every request, without their readers (``profiles_db.recordings.files``)."""

from typing import Final

TOOLS: Final = ("vllm-bench", "aiperf", "guidellm", "inference-perf", "llmservingsim-bench")
