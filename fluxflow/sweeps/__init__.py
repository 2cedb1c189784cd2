"""The answer of a sweep: which of its models is better, at what cost, and how sure that is."""
