"""Ways to spread the parts of a features folder over processes and machines: one file each, all with the same bytes."""
