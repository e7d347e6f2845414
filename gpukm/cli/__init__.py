"""The command line: parses, calls :mod:`gpukm.pipeline`, prints. Heavy rooms are imported inside commands."""
