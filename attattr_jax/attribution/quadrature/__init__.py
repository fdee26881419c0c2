"""Integration rules: named ones (`rules`), as data of compiled programs (`levels`), and what they
are made of.
"""
