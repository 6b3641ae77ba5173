"""Mutations of what `jaxllm learn train` does."""

from slips.mutation import Mutation

MUTATIONS: list[Mutation] = []
