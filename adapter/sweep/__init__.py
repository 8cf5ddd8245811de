"""Many trials of a stage at once: what they share is read, decoded and computed once; and the search over them.

run.py           a sweep from its space to its winner: what the CLI calls
space_file.py    a search space as TOML (axes_file.py: its entries); space.py: what it means; check.py: can it be trained at all
record.py        the sweep's folder, and what all who join must agree on
study.py         what was tried, in a journal that processes share; propose.py: what to try next; importance.py: what mattered
search.py        one process's part in the search; repeats.py: the best once more, with new seeds
winner.py        which recipe it is; noise.py: how much of its lead is noise; write.py, plots.py: what is left behind
population.py    trains the trials that are proposed to it, on shared passes over the cache
"""
