"""Sharpness in all its variants, each beside the threshold that it is compared with."""
