//! Layer-4 balancing behind virtual addresses: the model and the choice of a backend

#![forbid(unsafe_code)]
