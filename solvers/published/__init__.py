"""Two published learned methods, as published: DCDM (ICML 2023) and NPSDO (ICML 2024)."""
