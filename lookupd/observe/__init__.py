"""Is told things and never asked: counters, metrics, log lines."""
