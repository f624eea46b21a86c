"""How a zoo lies on disk: a header, immutable shards, and put-if-absent commit records.

``files`` writes durably, ``header`` says what a zoo holds, ``records`` lists what is committed,
``parquet`` and ``table`` encode one block, ``state`` the training state of an unfinished cohort,
``writer`` commits, ``reader`` reads rows back, ``metadata`` their table, ``caches`` finalises, ``lock``
admits one builder, ``orphans`` cleans up, ``collection`` writes finished rows as a new zoo.
"""
