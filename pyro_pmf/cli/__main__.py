"""`python -m pyro_pmf.cli` is `pyro-pmf`."""

from pyro_pmf.cli import main

main()
