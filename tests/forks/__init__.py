"""Processes of the tests that start at once: forks of one that has the libraries imported already.

vLLM takes twelve seconds of CPU time to import, a provider's SDK two, and the tests start hundreds
of engines, couriers and commands. Here each is still a process of its own that runs the same code
with the same arguments, files and environment; only the imports are shared. A test that is about
the start itself asks for the fixture ``true_processes``.

`client` stands in every Python process of the tests, by ``sitecustomize``; `zygote` is what forks.
"""
