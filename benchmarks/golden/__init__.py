"""Sixty answers of the product, kept as digests, so that a rebuilding that should change none can show that it did not.

They are equal to the bit on one machine with one set of libraries; another BLAS or CPU may round a fit otherwise.
There, keep the answers of the commit before (``--write``) and compare with those.
"""
