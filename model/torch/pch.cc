// Holds the precompiled header of all code that includes LibTorch.
