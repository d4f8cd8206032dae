"""Generative models: vLLM as a child process, and the pod around it (docs/design/0011-vllm.md)."""
