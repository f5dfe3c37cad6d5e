"""The test suite. Type hints are checked while it runs, by beartype, for which an int is a float, as in PEP 484."""

from beartype import BeartypeConf, beartype

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))
