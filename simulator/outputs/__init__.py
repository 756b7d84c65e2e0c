"""What a simulation writes on demand: requests and iterations as Parquet, and a timeline for trace viewers."""
