"""The store: the only code that opens LMDB. Readers never wait, one writer commits all or nothing."""
