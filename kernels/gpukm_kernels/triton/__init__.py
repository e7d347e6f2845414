"""Triton kernels on torch tensors; imported only where torch and triton are."""
