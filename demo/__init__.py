"""A window with the live picture: ``python -m demo.live``."""
