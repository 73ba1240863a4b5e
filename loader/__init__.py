"""Feed to store: the only writer. It meets the daemon in the store, and nowhere else."""
