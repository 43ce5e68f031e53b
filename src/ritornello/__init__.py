"""Ritornello: complete piano performances, modelled in a memory of fixed size."""
