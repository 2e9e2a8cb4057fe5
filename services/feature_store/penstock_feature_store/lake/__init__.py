"""Records as Parquet files, and who may write them."""
