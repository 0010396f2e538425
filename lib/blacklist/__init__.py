"""The blacklist: the ledger is the truth, the Bloom filter is its shadow."""
