"""The Parquet file of a fitted model: writing, reading and checking it."""
