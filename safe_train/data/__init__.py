"""Data set readers, examples, their order, and collation into batches."""
