"""Pods as both kinds make them: mounts for URIs, a restricted security context, and what children's pods tell us. Pure."""
