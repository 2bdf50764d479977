"""Files that hold many images: tar, zip, parquet and Arrow; each kind lists its members and reads one by its place."""
