"""Mutations of the pieces of the course."""

from slips.mutation import Mutation

MUTATIONS: list[Mutation] = []
