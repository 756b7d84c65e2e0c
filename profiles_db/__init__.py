"""What was measured: the Parquet schema, the store and importers of others' data."""
