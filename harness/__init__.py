"""Compare solutions of one FlashInfer-Bench definition, honestly and quickly."""

__version__ = "0.1.0"
