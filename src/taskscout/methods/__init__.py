"""Selection methods behind one protocol (:mod:`taskscout.methods.method`)."""
