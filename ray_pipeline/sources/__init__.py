"""Reading rows: CSV, JSON(L), Parquet and Hugging Face datasets, local or on object storage."""
