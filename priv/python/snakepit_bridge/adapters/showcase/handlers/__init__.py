"""Tools of the showcase, one module for each topic."""
