"""Reports: what a run has to say at its end as plain values, written in any format, read back from a file."""
