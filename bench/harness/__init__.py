"""The benchmarks behind `bench/run`.

cli.py        what is run, in which order, how often
scenarios.py  what is measured
worlds.py     the meshes in which it is measured, and their pods
peers.py      configuration of HAProxy and nginx
load.py       load generators
system.py     processes: their start, processor time, memory
report.py     table, raw data; plot.py: plots
"""
