"""Serving: promoted versions, verified and loaded on Triton."""
