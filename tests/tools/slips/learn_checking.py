"""Mutations of what `jaxllm learn check` does."""

from slips.mutation import Mutation

MUTATIONS: list[Mutation] = []
