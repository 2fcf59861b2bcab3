"""Selection methods behind one protocol (:mod:`taskscout.methods.method`)."""

#: The method that ranks where none is named.
DEFAULT = "layered-esm-logme"
