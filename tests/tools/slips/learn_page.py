"""Mutations of the page of `jaxllm learn show`."""

from slips.mutation import Mutation

MUTATIONS: list[Mutation] = []
