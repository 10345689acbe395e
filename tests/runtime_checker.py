"""The runtime checker of annotations that `test_shape_annotations.py` installs."""

from beartype import BeartypeConf, beartype

# An int is a float, as type checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
