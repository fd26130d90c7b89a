"""Environments: making, stepping and filming them."""
