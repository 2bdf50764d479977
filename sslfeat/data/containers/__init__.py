"""Container files with many images: tar, zip, parquet and Arrow. Members are listed, and read individually."""
