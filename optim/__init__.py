"""What trains networks: the curvature products, spectra and tuners of krylearn."""
