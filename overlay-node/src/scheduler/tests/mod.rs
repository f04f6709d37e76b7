//! Tests of the scheduler, against a small world with a plain way of applying changes.

mod lifecycle;
mod model;
mod placement;
mod random;
mod restart;
mod rollout;
mod scale;
mod words;
mod world;
