"""Models on a GPU: batches staged in page-locked memory, and a CUDA graph for each shape of batch.

`model` is a `TorchModel` that does that. `buckets` says which shapes there are, `trial` which of them the module takes, `staging`
joins rows where the device copies from, `graphs` records and proves. `lane` is all that is asked of CUDA.
"""
