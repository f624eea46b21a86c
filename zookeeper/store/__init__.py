"""How a zoo lies on disk: a header, immutable shards, and put-if-absent commit records; docs/format.md describes it.

``files`` writes durably, ``header`` says what a zoo holds, ``records`` lists what is committed, ``encoding`` says how
rows become bytes, ``shards`` encodes and decodes them through ``parquet`` or ``hdf5``, ``table`` types their metadata,
``state`` the training state of an unfinished cohort, ``writer`` commits, ``reader`` reads rows back, ``metadata`` their
table, ``caches`` finalises, ``lock`` admits one builder, ``orphans`` cleans up, ``collection`` writes finished rows as
a new zoo, ``convert`` writes a zoo in another encoding, ``remote`` brings zoos at URLs into a cache.
``verify`` looks for damage (``contents``: for contradictions) and reports ``findings``, ``repair`` mends.
"""
