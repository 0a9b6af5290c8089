"""API priority and fairness (KEP-1040): who waits for whom when there is more to do than can be done."""
