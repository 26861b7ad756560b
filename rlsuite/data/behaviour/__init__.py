"""Weights of behaviour policies with their training records, and the script that trained them."""
