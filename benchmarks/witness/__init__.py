"""The witness: a real vLLM on this machine's CPU beside what was predicted for it, from profile to page."""
