"""What OpenRLHF does not log, computed beside it from tensors that are there anyway; torch is never imported."""
