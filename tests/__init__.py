# A package that the scorer needs (textstat) installs a package of this name: this one goes first.
