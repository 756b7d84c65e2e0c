"""Readers of what benchmark clients record of a served run: one module per client, all giving a `RecordedRun`."""
