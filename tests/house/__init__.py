"""Tests of the project itself: layering, security, documents, mutations."""
