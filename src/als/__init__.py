"""ALS: amortized latent steering (arXiv 2509.18116) as a research toolkit.

See README.md for the commands and `als.steering` for use from Python. Importing this package imports no torch.
"""

__version__ = "0.1.0"
