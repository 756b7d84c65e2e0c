"""What is written on demand: requests and iterations as Parquet, a timeline for trace viewers, figures of a search."""
